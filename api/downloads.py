"""Objects as answers, piece by piece; nothing is held in memory whole."""

from collections.abc import Iterator
from itertools import chain


def begun(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Take the first piece before the answer starts, so that what cannot be read is refused and not broken off."""
    return chain([next(chunks, b"")], chunks)
