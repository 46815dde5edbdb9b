"""What comes from a server, piece by piece, read by a thread of its own: so whoever waits for it can leave at once."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator

_WAITING = 4  # pieces that came and were not taken; a slow disk holds the server, not memory
_LOOK_S = 0.2


class Overdue(Exception):
    """Not everything came in time."""


def arriving(
    pieces: Generator[bytes, None, None], *, seconds: float, check: Callable[[], None]
) -> Generator[bytes, None, None]:
    """Yield pieces as they come, and ask `check` five times a second, also while nothing comes.

    Args:
        pieces: where they come from. It runs in another thread, which is left behind when this generator is closed: it
            ends with the wait that it is in, so that wait must have an end.
        seconds: for all of them.
        check: whether to go on; it raises when not.

    Raises:
        Overdue: the time is over.
    """
    deadline = time.monotonic() + seconds  # of the pieces' own source, which may be as long, begins after it
    reader = _Reader(pieces)
    reader.start()
    try:
        while True:
            check()
            if time.monotonic() > deadline:
                raise Overdue
            with contextlib.suppress(queue.Empty):
                match reader.waiting.get(timeout=_LOOK_S):
                    case bytes() as piece:
                        yield piece
                    case None:
                        return
                    case error if time.monotonic() > deadline:
                        raise Overdue from error
                    case error:
                        raise error
    finally:
        reader.left.set()


class _Reader(threading.Thread):
    """Puts the pieces, and at last their end or what ended them, where the other thread waits."""

    def __init__(self, pieces: Generator[bytes, None, None]) -> None:
        super().__init__(name="arrivals", daemon=True)
        self._pieces = pieces
        self.waiting: queue.Queue[bytes | Exception | None] = queue.Queue(_WAITING)
        self.left = threading.Event()

    def run(self) -> None:
        for item in self._items():
            while not self.left.is_set():
                with contextlib.suppress(queue.Full):
                    self.waiting.put(item, timeout=_LOOK_S)
                    break
            if self.left.is_set():
                return

    def _items(self) -> Iterator[bytes | Exception | None]:
        try:
            with contextlib.closing(self._pieces):
                yield from self._pieces
        except Exception as error:  # noqa: BLE001 - the edge of the thread: it is raised in the one that waits
            yield error
        else:
            yield None
