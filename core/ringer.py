"""Rings doorbells from a thread of its own, so that no request waits for the broker.

To send one message costs a millisecond with a broker that answers, and seconds with one that hangs. Rings that come while one is
under way are gathered: a worker that was woken looks into SQL until there is nothing left, so further rings for its queue only
serve to wake other workers.
"""

from collections.abc import Iterator

from core.logs import get_logger
from core.queue import Doorbell, Queue
from core.sender import Sender

PAUSE_S = 0.02  # between two rings: a thousand jobs in a second need no thousand messages
AT_ONCE = 32  # rings of one queue that wait; more would wake nobody who is not awake by then

log = get_logger(__name__)


class Ringer(Sender):
    """A doorbell that nobody waits for. What is lost at its end, the workers' own look finds."""

    def __init__(self, doorbell: Doorbell) -> None:
        super().__init__("ringer")
        self._doorbell = doorbell
        self._waiting: dict[Queue, dict[str, None]] = {}  # ids in their order, each once

    def ring(self, queue: Queue, work_id: str) -> None:
        """Have a message sent soon, best effort."""
        with self._adding():
            waiting = self._waiting.setdefault(queue, {})
            if len(waiting) < AT_ONCE:
                waiting[work_id] = None

    def answers(self) -> bool:
        """Tell whether the broker answers."""
        return self._doorbell.answers()

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
