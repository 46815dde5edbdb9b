"""Leases: heartbeat, end, give back, sweep. The clock is the database's; the fence only grows (`models.claims`).

A worker that finds no row changed is fenced: somebody else may run the work now, so it kills its child and writes
nothing more.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from core.clock import utc_now
from core.db import NowS
from core.errors import FailureCode
from core.events import Phase
from core.queue import Queue
from models.event import note
from models.states import LEASED, AttemptOutcome, Kind, WorkState
from models.work import Work, close_attempt, transition

_RELEASED: dict[str, Any] = {"lease_owner": None, "lease_until_s": None, "phase": None}

ENDING = frozenset({WorkState.CANCELLING, WorkState.CANCELLED})

_OUTCOMES = {
    WorkState.SUCCEEDED: AttemptOutcome.SUCCEEDED,
    WorkState.FAILED: AttemptOutcome.FAILED,
    WorkState.CANCELLED: AttemptOutcome.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A lease that this worker holds on one piece of work."""

    work_id: str
    project: str
    kind: Kind
    fence: int
    attempt: int


def heartbeat(session: Session, claimed: Claim, *, lease_s: float) -> WorkState | None:
    """Prolong a lease and return the state that it stands at (this is how cancel arrives); None: fenced."""
    row = session.execute(
        sa.update(Work)
        .where(col(Work.id) == claimed.work_id, col(Work.fence) == claimed.fence, col(Work.state).in_(LEASED))
        .values(lease_until_s=NowS() + lease_s)
        .returning(col(Work.state))
    ).first()
    return None if row is None else row[0]


def set_phase(session: Session, claimed: Claim, phase: Phase) -> bool:
    """Write what the work is doing now; False: fenced."""
    row = session.execute(
        sa.update(Work)
        .where(col(Work.id) == claimed.work_id, col(Work.fence) == claimed.fence, col(Work.state).in_(LEASED))
        .values(phase=phase)
        .returning(col(Work.id))
    ).first()
    return row is not None


def finish(session: Session, claimed: Claim, target: WorkState, *, failure: dict[str, Any] | None = None) -> bool:
    """End the work as `succeeded`, `failed` or `cancelled`; False: fenced, and nothing was written."""
    ended = transition(
        session,
        claimed.work_id,
        target,
        fence=claimed.fence,
        failure=failure,
        finished_at=utc_now(),
        **_RELEASED,
    )
    if not ended:
        return False
    message = {
        WorkState.SUCCEEDED: "Succeeded.",
        WorkState.FAILED: f"Failed: {(failure or {}).get('detail', '')}",
        WorkState.CANCELLED: "Cancelled.",
    }[target]
    note(session, claimed.work_id, message, state=target)
    close_attempt(session, claimed.work_id, _OUTCOMES[target], failure=failure)
    return True


def give_back(session: Session, claimed: Claim, *, reason: str) -> bool:
    """Put running work back in its queue because the worker was told to stop; it costs no attempt."""
    if not transition(session, claimed.work_id, WorkState.QUEUED, fence=claimed.fence, **_RELEASED):
        return False
    note(session, claimed.work_id, f"Given back: {reason}", state=WorkState.QUEUED)
    close_attempt(session, claimed.work_id, AttemptOutcome.GIVEN_BACK)
    return True


def cancel(session: Session, work_id: str) -> WorkState | None:
    """Ask for the end of a piece of work; return the state it came to, None if it has ended already."""
    for _ in range(2):  # a give-back may come between
        if withdraw(session, work_id):
            return WorkState.CANCELLED
        if transition(session, work_id, WorkState.CANCELLING):
            note(session, work_id, "Cancel requested.", state=WorkState.CANCELLING)
            return WorkState.CANCELLING
    return None


def withdraw(session: Session, work_id: str) -> bool:
    """Cancel a piece of work that no worker holds; False: one does, or it has ended."""
    if not transition(session, work_id, WorkState.CANCELLED, unless=LEASED, finished_at=utc_now()):
        return False
    note(session, work_id, "Cancelled.", state=WorkState.CANCELLED)
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep found: leases taken back, and of each queue one piece of work whose doorbell may be lost."""

    expired: tuple[str, ...]
    waiting: dict[Queue, str]


def sweep(session: Session, *, max_attempts: int, limit: int = 100) -> Swept:
    """Take back expired leases; name the queues to ring for again."""
    expired = session.exec(
        select(Work)
        .where(col(Work.state).in_(LEASED), col(Work.lease_until_s) < NowS())
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for work in expired:
        _take_back(session, work, max_attempts=max_attempts)
    waiting = session.exec(
        select(Work.queue, sa.func.min(Work.id))
        .where(Work.state == WorkState.QUEUED, col(Work.available_at_s) <= NowS())
        .group_by(col(Work.queue))
    ).all()
    return Swept(expired=tuple(work.id for work in expired), waiting={Queue(queue): first for queue, first in waiting})


def _take_back(session: Session, work: Work, *, max_attempts: int) -> None:
    lost = work.lost_attempts + 1
    values: dict[str, Any] = {"lost_attempts": lost, **_RELEASED}
    failure = None
    if work.state is WorkState.CANCELLING:
        target, message = WorkState.CANCELLED, "Cancelled; its worker is gone."
        values["finished_at"] = utc_now()
    elif lost >= max_attempts:
        target = WorkState.FAILED
        failure = {
            "code": FailureCode.WORKER_LOST.value,
            "detail": f"The worker was lost {lost} times while it ran this.",
            "remedy": "Look at the worker's memory and its log; then make it again.",
            "retryable": True,
        }
        values |= {"finished_at": utc_now(), "failure": failure}
        message = f"Failed: {failure['detail']}"
    else:
        target, message = WorkState.QUEUED, f"Its worker is gone; queued again (attempt {work.attempt} lost)."
    if transition(session, work.id, target, fence=work.fence, **values):
        note(session, work.id, message, state=target)
        close_attempt(session, work.id, AttemptOutcome.WORKER_LOST, failure=failure)
