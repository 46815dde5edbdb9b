"""Rings doorbells from a thread of its own, so that no request waits for the broker.

To send one message costs a millisecond with a broker that answers, and seconds with one that hangs. Rings that come while one is
under way are gathered: a worker that was woken looks into SQL until there is nothing left, so further rings for its queue only
serve to wake other workers.
"""

import threading
from collections.abc import Iterator

from core.logs import get_logger
from core.queue import Doorbell, Queue

PAUSE_S = 0.02  # between two rings: a thousand jobs in a second need no thousand messages
AT_ONCE = 32  # rings of one queue that wait; more would wake nobody who is not awake by then

log = get_logger(__name__)


class Ringer:
    """A doorbell that nobody waits for."""

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._waiting: dict[Queue, dict[str, None]] = {}  # ids in their order, each once
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def ring(self, queue: Queue, work_id: str) -> None:
        """Have a message sent soon, best effort."""
        with self._changed:
            waiting = self._waiting.setdefault(queue, {})
            if len(waiting) < AT_ONCE:
                waiting[work_id] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ringer", daemon=True)
                self._thread.start()
            self._changed.notify()

    def answers(self) -> bool:
        """Tell whether the broker answers."""
        return self._doorbell.answers()

    def close(self, *, within_s: float) -> None:
        """Send what waits and end; what a broker that hangs does not take in time is lost, and the workers' own look finds it."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(within_s)

    def _run(self) -> None:
        for queue, work_id in self._rings():
            try:
                self._doorbell.ring(queue, work_id)
            except Exception:  # the edge of the thread
                log.exception("ringer broke", work_id=work_id)
            self._closing.wait(PAUSE_S)

    def _rings(self) -> Iterator[tuple[Queue, str]]:
        """Yield what to ring for, each queue in its turn, until closed and empty."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
                if not self._waiting:
                    return
                queue = next(iter(self._waiting))
                waiting = self._waiting.pop(queue)
                work_id = next(iter(waiting))
                del waiting[work_id]
                if waiting:
                    self._waiting[queue] = waiting  # now the last
            yield queue, work_id
