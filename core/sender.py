"""Sending from a thread of its own, so that nobody waits for a broker."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager


class Sender(ABC):
    """What waits is handed over under a condition; the thread begins with the first of it and ends after `close`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def close(self, *, within_s: float) -> None:
        """Send what waits and end; what a broker that hangs does not take in time is lost."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(within_s)

    @contextmanager
    def _adding(self) -> Iterator[None]:
        """Add to what waits inside of this block; then the thread is told."""
        with self._changed:
            yield
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()

    @abstractmethod
    def _run(self) -> None:
        """Send what comes until it is closed."""
