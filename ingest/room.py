"""Room for so much at once: threads that would need more wait until others are done."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Room:
    """A bound on the sum of what threads hold. What alone is more than all there is gets in alone."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Wait for room, and keep it until the block ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + amount <= self._size)
            self._held += amount
        try:
            yield
        finally:
            with self._changed:
                self._held -= amount
                self._changed.notify_all()
