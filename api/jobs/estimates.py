"""The forecast of this process: one look at the queue serves every request of a second."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from api.jobs.forecast import Place, Running, Waiting, forecast
from core.clock import utc_now
from core.db import Database
from core.queue import Queue
from models import queue
from models.queue import Entry, Snapshot

FRESH_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What one job may expect; nulls where it waits no more or nobody knows."""

    queue_position: int | None = None
    estimated_start: datetime | None = None
    estimated_finish: datetime | None = None
    waiting_for: str | None = None


NOTHING = Expectation()


class Estimates:
    """Looks at the queue at most once per `FRESH_S`; safe to ask from many threads."""

    def __init__(
        self, database: Database, *, silent_s: float, project_bound: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._silent_s = silent_s
        self._project_bound = project_bound
        self._clock = clock
        self._lock = threading.Lock()
        self._made_at: float | None = None
        self._made: Mapping[str, Expectation] = {}

    def now(self) -> Mapping[str, Expectation]:
        """Return what each job that waits or runs may expect; opens a session of its own when it must look."""
        with self._lock:  # whoever comes while another looks waits for that look
            if self._made_at is None or self._clock() - self._made_at >= FRESH_S:
                with self._database.read() as session:
                    seen = queue.look(session, Queue.GPU, silent_s=self._silent_s)
                self._made = expectations(seen, at=utc_now(), project_bound=self._project_bound)
                self._made_at = self._clock()
            return self._made


def expectations(seen: Snapshot, *, at: datetime, project_bound: int) -> dict[str, Expectation]:
    """Return what each piece of work of a queue may expect."""
    estimates = forecast(
        [_waiting(entry) for entry in seen.waiting],
        [
            Running(project=each.project, worker_id=each.worker_id, remaining_s=each.seconds_left)
            for each in seen.running
        ],
        [_place(worker_id, capacity) for worker_id, capacity in seen.workers.items()],
        used_s=seen.used_s,
        project_bound=project_bound,
    )
    waiting = {
        work_id: Expectation(
            queue_position=each.position,
            estimated_start=_moment(at, each.start_s),
            estimated_finish=_moment(at, each.finish_s),
            waiting_for=each.waiting_for,
        )
        for work_id, each in estimates.items()
    }
    running = {each.id: Expectation(estimated_finish=_moment(at, each.seconds_left)) for each in seen.running}
    return waiting | running


def _moment(at: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else at + timedelta(seconds=seconds)


def _waiting(entry: Entry) -> Waiting:
    return Waiting(
        id=entry.id,
        project=entry.project,
        priority=entry.priority,
        seconds=entry.seconds_left,
        gpus=entry.gpus,
        resource_class=entry.resource_class,
        needed_bytes=entry.needed_bytes,
        least_bytes=entry.least_bytes,
        held_s=entry.held_s,
    )


def _place(worker_id: str, capacity: Mapping[str, object]) -> Place:
    gpus, classes = capacity.get("gpus"), capacity.get("classes")
    memory, headroom, memory_of = (capacity.get(name) for name in ("memory_bytes", "headroom_bytes", "memory_of"))
    return Place(
        id=worker_id,
        gpus=gpus if isinstance(gpus, int) else 0,
        classes=frozenset(classes if isinstance(classes, list) else ()),
        memory_bytes=memory if isinstance(memory, int) else None,
        headroom_bytes=headroom if isinstance(headroom, int) else None,
        memory_of=memory_of if isinstance(memory_of, str) else None,
    )
