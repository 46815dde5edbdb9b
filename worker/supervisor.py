"""Supervising one child: its events go to SQL under the fence; a cancel, a stop or a lost lease ends it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from core.db import DATABASE_AWAY, Database
from core.errors import FailureCode
from core.events import (
    PROTOCOL_VERSION,
    Alive,
    Checkpoint,
    ChildEvent,
    Failure,
    Hello,
    Limited,
    Log,
    Metric,
    PhaseChanged,
    Planned,
    Progress,
    Resolved,
    Result,
    Sample,
    Stopped,
)
from core.logs import get_logger
from models import event as event_rows
from models import leases
from models.event import Item
from models.states import EventKind, WorkState
from worker.child import ChildProcess, Stopping
from worker.lease import Lease
from worker.recorder import Recorder

Wake = Callable[[str], None]  # those who follow the log of a piece of work

FLUSH_S = 0.4
EXIT_S = 30.0

log = get_logger(__name__)

# What a library in C++ or Rust leaves that gets no memory.
_ABORTED = -6
_ABORT_FAILURE = Failure(
    code=FailureCode.OUT_OF_MEMORY,
    detail="The process was aborted (SIGABRT), most often because a library got no memory.",
    remedy="The last lines of its output are in the log. Give the worker more memory; for a data set, look for lines "
    "of many megabytes.",
    retryable=True,
)
_KILLED = -9


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The child's result."""

    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The child's failure."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Killed:
    """Somebody killed the child, and said nothing: another attempt may end well."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """The child was killed because it went on with nothing: a hung kernel or driver may pass with another process."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The child stopped because somebody wanted it to."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """The lease is not ours any more: nothing may be written."""


Outcome = Succeeded | Failed | Killed | Stalled | Ended | Fenced


@dataclass(slots=True)
class Backlog:
    """What a child has said and the rows may not have yet.

    A commit whose answer is lost may have come through: what was in it stays here until that is known.
    """

    events: list[tuple[ChildEvent, bool]] = field(default_factory=list)  # with whether it is news to the log
    flush: int = 0  # the number of the last that was begun
    num_asked: int = 0  # how many of the events were in it, when its commit was asked for

    def part(self) -> list[tuple[ChildEvent, bool]]:
        """Return what is written together next: a curve that begins anew does so behind the settings that say why."""
        ends = (at for at, (event, _) in enumerate(self.events, start=1) if isinstance(event, Resolved))
        return self.events[: next(ends, len(self.events))]

    def settle(self, recorder: Recorder) -> None:
        """Let go of what was in the last flush: the rows have it."""
        for event, _ in self.events[: self.num_asked]:
            recorder.written(event)
        del self.events[: self.num_asked]
        self.num_asked = 0


@dataclass(slots=True)
class Ending:
    """The patience with a child that has said its last word and does not end."""

    said_at: float | None = None
    is_overdue: bool = False

    def step(self, process: ChildProcess) -> None:
        """Kill it when it is overdue; what it said still counts."""
        if self.said_at is None:
            self.said_at = time.monotonic()
        if time.monotonic() - self.said_at > EXIT_S:
            self.is_overdue = True
            process.kill()


def supervise(
    process: ChildProcess,
    lease: Lease,
    *,
    database: Database,
    recorder: Recorder,
    stopping: Stopping,
    shutdown: threading.Event,
    wake: Wake,
) -> Outcome:
    """Follow a child to its end and say how it ended.

    A database that is away costs nothing as long as the lease lasts: what could not be written waits. Of several ends,
    which only a child of several processes has, the first counts: the others broke because that one did.
    """
    last: Result | Failure | Stopped | None = None
    backlog = Backlog()
    ending = Ending()
    for batch in process.batches(every_s=FLUSH_S):
        backlog.events += [(event, recorder.hear(event)) for event in batch]
        if lease.lost.is_set() or not _write(database, lease, recorder, backlog, wake):
            process.kill()
            return Fenced()
        if refused := next((e for e in batch if isinstance(e, Hello) and e.protocol != PROTOCOL_VERSION), None):
            process.kill()
            return Failed(_other_protocol(refused))
        last = last or next((e for e in batch if isinstance(e, Result | Failure | Stopped)), None)
        if shutdown.is_set() or lease.state is not WorkState.RUNNING:
            stopping.step(process, pausing=lease.state is WorkState.PAUSING and not shutdown.is_set())
        if last is not None:
            ending.step(process)
    while backlog.events:  # said just before the end, while the database was away
        if lease.lost.wait(FLUSH_S) or not _write(database, lease, recorder, backlog, wake):
            return Fenced()
    status = process.wait()
    return _outcome(last, 0 if ending.is_overdue else status, wanted=stopping.asked_at is not None)


def _other_protocol(hello: Hello) -> Failure:
    return Failure(
        code=FailureCode.INTERNAL,
        detail=f"The child speaks version {hello.protocol} of the events, this worker version {PROTOCOL_VERSION}.",
        remedy="Lensmith was changed under a running worker: restart the worker, and make it again.",
        retryable=True,
    )


def _outcome(last: Result | Failure | Stopped | None, status: int, *, wanted: bool) -> Outcome:
    if isinstance(last, Result) and status == 0:
        return Succeeded(last.data)
    if wanted or isinstance(last, Stopped):
        return Ended()
    if isinstance(last, Failure):
        return Failed(last)
    if status == _KILLED:
        return Killed()
    silent = Failure(
        code=FailureCode.INTERNAL,
        detail=f"The process ended with status {status} and said nothing.",
        remedy="The last lines of its output are in the log; make it again, and report it if it ends like this again.",
        retryable=True,
    )
    return Failed(_ABORT_FAILURE if status == _ABORTED else silent)


def nobody(work_id: str) -> None:
    """Wake nobody."""
    del work_id


def memory_failure() -> Failure:
    """Return the failure of a child that the system killed for want of memory."""
    return Failure(
        code=FailureCode.OUT_OF_MEMORY,
        detail="The process was killed by the system (SIGKILL) for want of memory.",
        remedy="Give the worker more memory; for a job, lower hyperparameters.micro_batch_tokens or image.longest_edge.",
        retryable=True,
    )


def _write(database: Database, lease: Lease, recorder: Recorder, backlog: Backlog, wake: Wake) -> bool:
    """Write what waits, and empty it; False: fenced. Nothing is lost or doubled while the database is away."""
    if not backlog.events:
        return True
    try:
        while backlog.events:
            if not _flush(database, lease, recorder, backlog):
                return False
    except DATABASE_AWAY as error:
        log.warning("events wait", work_id=lease.claim.work_id, count=len(backlog.events), error=str(error))
        return True
    wake(lease.claim.work_id)
    return True


def _flush(database: Database, lease: Lease, recorder: Recorder, backlog: Backlog) -> bool:
    """Write one part in one transaction; False: fenced."""
    claim = lease.claim
    with database.write() as session:
        if backlog.num_asked:
            if event_rows.has_flush(session, claim.work_id, backlog.flush, fence=claim.fence):
                backlog.settle(recorder)
            backlog.num_asked = 0
        part = backlog.part()
        items = [item for event, is_news in part if is_news and (item := _item(event)) is not None]
        backlog.flush += 1
        state = event_rows.append(session, claim.work_id, items, fence=claim.fence, flush=backlog.flush)
        if state is None:
            session.rollback()
            return False
        for event, _ in part:
            if isinstance(event, PhaseChanged):
                leases.set_phase(session, claim, event.phase)
            recorder.record(session, claim.work_id, event)
        backlog.num_asked = len(part)
    lease.state = state
    backlog.settle(recorder)
    return True


def _item(event: ChildEvent) -> Item | None:
    """Return how an event reads in the log; what has its own place (progress, checkpoint, result, failure) is not."""
    item: Item | None = None
    match event:
        case Log(level=level, message=message, data=data):
            item = Item(kind=EventKind.LOG, level=level, message=message, data=data)
        case Metric(data=data):
            item = Item(kind=EventKind.METRIC, data=dict(data))
        case Sample(data=data):
            item = Item(kind=EventKind.SAMPLE, data=data)
        case PhaseChanged(phase=phase):
            item = Item(kind=EventKind.EVENT, level="info", message=f"Phase: {phase}.", data={"phase": phase})
        case Resolved(settings=settings):
            item = Item(kind=EventKind.EVENT, level="info", message="Settings resolved.", data={"settings": settings})
        case Alive() | Checkpoint() | Hello() | Limited() | Planned() | Progress() | Result() | Failure() | Stopped():
            pass
    return item
