"""Objects as answers, piece by piece; nothing is held in memory whole."""

import zipfile
from collections.abc import Iterable, Iterator
from itertools import chain


def begun(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Take the first piece before the answer starts, so that what cannot be read is refused and not broken off."""
    return chain([next(chunks, b"")], chunks)


def zipped(members: Iterable[tuple[str, Iterable[bytes]]]) -> Iterator[bytes]:
    """Yield a zip of named members as it is written; the times in it are fixed, so the same members give the same bytes."""
    pieces = _Pieces()
    with zipfile.ZipFile(pieces, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]  # `write` is enough
        for name, chunks in members:
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as target:
                for chunk in chunks:
                    target.write(chunk)
                    yield pieces.take()
    yield pieces.take()


class _Pieces:
    """What a zip is written to: it cannot be sought in, so sizes come behind each member."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: the pieces are taken as they come."""

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken
