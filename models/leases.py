"""Leases: heartbeat, end, pause, give back. The clock is the database's; the fence only grows (`models.claims`).

A worker that finds no row changed is fenced: somebody else may run the work now, so it kills its child and writes
nothing more.
"""

from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from core.clock import utc_now
from core.db import NowS
from core.events import Phase
from models.device_memory import Room
from models.event import note
from models.states import LEASED, AttemptOutcome, Kind, WorkState
from models.work import Work, close_attempt, transition

LONGEST_WAIT_S = 1200.0  # before a failed attempt is followed by another

_RELEASED: dict[str, Any] = {"lease_owner": None, "lease_until_s": None, "phase": None}

_PAUSING = frozenset({WorkState.PAUSING})

_OUTCOMES = {
    WorkState.SUCCEEDED: AttemptOutcome.SUCCEEDED,
    WorkState.FAILED: AttemptOutcome.FAILED,
    WorkState.CANCELLED: AttemptOutcome.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an attempt ends: where its work goes, what the log says of it, and what is kept of the attempt."""

    target: WorkState
    message: str
    outcome: AttemptOutcome
    failure: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A lease that this worker holds on one piece of work."""

    work_id: str
    project: str
    kind: Kind
    fence: int
    attempt: int
    room: Room | None = None  # as things stood when it was claimed; None: nobody knows


def heartbeat(session: Session, claimed: Claim, *, lease_s: float) -> WorkState | None:
    """Prolong a lease and return the state that it stands at (this is how cancel arrives); None: fenced."""
    row = session.execute(
        sa.update(Work)
        .where(col(Work.id) == claimed.work_id, col(Work.fence) == claimed.fence, col(Work.state).in_(LEASED))
        .values(lease_until_s=NowS() + lease_s)
        .returning(col(Work.state))
    ).first()
    return None if row is None else row[0]


def held(session: Session) -> list[tuple[str, int]]:
    """Return the work that is leased at this moment, each with the fence of its lease."""
    rows = session.exec(select(Work.id, Work.fence).where(col(Work.state).in_(LEASED)))
    return [(work_id, fence) for work_id, fence in rows]


def set_phase(session: Session, claimed: Claim, phase: Phase) -> bool:
    """Write what the work is doing now; False: fenced."""
    row = session.execute(
        sa.update(Work)
        .where(col(Work.id) == claimed.work_id, col(Work.fence) == claimed.fence, col(Work.state).in_(LEASED))
        .values(phase=phase)
        .returning(col(Work.id))
    ).first()
    return row is not None


def end_attempt(
    session: Session,
    work_id: str,
    ending: Ending,
    *,
    fence: int,
    unless: frozenset[WorkState] = frozenset(),
    **values: Any,
) -> bool:
    """Let go of a lease: move the work, say so in its log, close its attempt; False: fenced, and nothing was written.

    `unless` and `values` are those of `transition`.
    """
    if not transition(session, work_id, ending.target, fence=fence, unless=unless, **_RELEASED, **values):
        return False
    note(session, work_id, ending.message, state=ending.target)
    close_attempt(session, work_id, ending.outcome, failure=ending.failure)
    return True


def finish(session: Session, claimed: Claim, target: WorkState, *, failure: dict[str, Any] | None = None) -> bool:
    """End the work as `succeeded`, `failed` or `cancelled`; False: fenced, and nothing was written."""
    message = {
        WorkState.SUCCEEDED: "Succeeded.",
        WorkState.FAILED: f"Failed: {(failure or {}).get('detail', '')}",
        WorkState.CANCELLED: "Cancelled.",
    }[target]
    ending = Ending(target=target, message=message, outcome=_OUTCOMES[target], failure=failure)
    return end_attempt(session, claimed.work_id, ending, fence=claimed.fence, failure=failure, finished_at=utc_now())


def pause(session: Session, claimed: Claim) -> bool:
    """End running work as `paused`, as a user asked; False: nobody did, or fenced."""
    ending = Ending(target=WorkState.PAUSED, message="Paused.", outcome=AttemptOutcome.PAUSED)
    return end_attempt(session, claimed.work_id, ending, fence=claimed.fence)


def try_again(
    session: Session, claimed: Claim, failure: dict[str, Any], *, max_attempts: int | None, retry_s: float
) -> bool:
    """Queue work whose attempt failed for a reason that may pass; False: it has had its attempts, or fenced.

    Without a bound the failure does not count: the next attempt is another one, and who calls bounds their number.

    Work that was asked to pause is paused instead. The wait grows four-fold with each failure in a row; `gained` begins
    the count anew.
    """
    failed = session.exec(select(Work.failed_attempts).where(Work.id == claimed.work_id)).one()
    if max_attempts is not None:
        failed += 1
        if failed >= max_attempts:
            return False
    wait_s = min(retry_s * 4 ** max(0, failed - 1), LONGEST_WAIT_S)
    again = Ending(
        target=WorkState.QUEUED,
        message=f"{failure['detail']} It is tried again in {wait_s:g} s (attempt {claimed.attempt} failed).",
        outcome=AttemptOutcome.FAILED,
        failure=failure,
    )
    paused = replace(again, target=WorkState.PAUSED, message=f"Paused, though it failed: {failure['detail']}")
    waits = {"failed_attempts": failed, "available_at_s": NowS() + wait_s}
    return end_attempt(session, claimed.work_id, again, fence=claimed.fence, unless=_PAUSING, **waits) or end_attempt(
        session, claimed.work_id, paused, fence=claimed.fence, failed_attempts=failed
    )


def gained(session: Session, claimed: Claim) -> None:
    """Count lost and failed attempts anew: the work has come further than the one before. The caller holds the fence."""
    session.execute(sa.update(Work).where(col(Work.id) == claimed.work_id).values(lost_attempts=0, failed_attempts=0))


def give_back(session: Session, claimed: Claim, *, reason: str) -> bool:
    """Put running work back in its queue because the worker was told to stop; it costs no attempt.

    False: fenced, or somebody asked it to pause or to end meanwhile.
    """
    message = f"Given back: {reason}"
    ending = Ending(target=WorkState.QUEUED, message=message, outcome=AttemptOutcome.GIVEN_BACK)
    return end_attempt(session, claimed.work_id, ending, fence=claimed.fence, unless=_PAUSING)


def release_all(session: Session, *, reason: str) -> int:
    """Take every lease back, because no worker can be there; return how many are queued again, not cancelled or paused."""
    num_queued = 0
    for work in session.exec(select(Work).where(col(Work.state).in_(LEASED))).all():
        claimed = Claim(work_id=work.id, project=work.project, kind=work.kind, fence=work.fence, attempt=work.attempt)
        if not finish(session, claimed, WorkState.CANCELLED) and not pause(session, claimed):
            num_queued += give_back(session, claimed, reason=reason)
    return num_queued
