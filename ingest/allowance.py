"""An allowance that threads share: who would take more than is left waits until others give back."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Allowance:
    """A bound on the sum of what threads hold. Who wants more than there is gets it alone."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Wait until there is so much, and hold it until the block ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + amount <= self.size)
            self._held += amount
        try:
            yield
        finally:
            with self._changed:
                self._held -= amount
                self._changed.notify_all()
