"""Whose lease is over: taken back by a sweep, or given up by the worker whose child was killed.

A lease ends on the database's clock, and that clock may be set. So who sweeps (`Expiry`) looks twice: a lease is over
when it was overdue at both looks and not prolonged between them, or when it was not prolonged for its whole length on
the sweeper's own steady clock. A step of the database's clock takes nothing from a worker that lives, and a dead one is
found whatever the clock says.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from core.clock import utc_now
from core.db import NowS
from core.errors import FailureCode
from core.queue import Queue
from models.claims import is_available
from models.leases import Claim, Ending, end_attempt
from models.states import LEASED, AttemptOutcome, WorkState
from models.work import Work

_LOOK = {
    FailureCode.WORKER_LOST: "Look at the worker's memory and its log: what is killed again and again has most often too "
    "little.",
    FailureCode.TIMED_OUT: "Look at the worker's device and its driver; where single steps take that long, raise "
    "LENSMITH_STALL_S on the worker.",
}


@dataclass(frozen=True, slots=True)
class _Seen:
    """A lease as it was first seen like this."""

    key: tuple[int, float]  # its fence, and until when it lasts
    at_s: float
    overdue_since_s: float | None


class Expiry:
    """Tells which leases are over. Keep one per process, and ask it in every sweep."""

    def __init__(self, *, lease_s: float, confirm_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._confirm_s = confirm_s
        self._clock = clock
        self._seen: Mapping[str, _Seen] = {}

    def over(self, session: Session) -> list[tuple[str, float]]:
        """Return the ids of the work whose leases are over, each with the end that its lease had."""
        now, seen = self._clock(), {}
        for work_id, fence, until_s, is_overdue in _leased(session):
            before = self._seen.get(work_id)
            if before is None or before.key != (fence, until_s):
                before = _Seen((fence, until_s), now, None)
            if is_overdue and before.overdue_since_s is None:
                before = _Seen(before.key, before.at_s, now)
            elif not is_overdue:
                before = _Seen(before.key, before.at_s, None)
            seen[work_id] = before
        self._seen = seen
        return [(work_id, one.key[1]) for work_id, one in seen.items() if self._is_over(one, now)]

    def _is_over(self, seen: _Seen, now: float) -> bool:
        confirmed = seen.overdue_since_s is not None and now - seen.overdue_since_s >= self._confirm_s
        return confirmed or now - seen.at_s > self._lease_s


def _leased(session: Session) -> list[tuple[str, int, float, bool]]:
    until = sa.func.coalesce(col(Work.lease_until_s), 0.0)
    rows = session.execute(select(Work.id, Work.fence, until, until < NowS()).where(col(Work.state).in_(LEASED)))
    return [(work_id, fence, until_s, bool(overdue)) for work_id, fence, until_s, overdue in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep found: leases taken back, and of each queue one piece of work whose doorbell may be lost."""

    expired: tuple[str, ...]
    waiting: dict[Queue, str]


def sweep(session: Session, *, max_attempts: int, over: list[tuple[str, float]]) -> Swept:
    """Take back leases that are over, unless they were prolonged meanwhile; name the queues to ring for again."""
    expired = []
    for work_id, until_s in over:
        work = session.exec(
            select(Work)
            .where(Work.id == work_id, col(Work.state).in_(LEASED), Work.lease_until_s == until_s)
            .with_for_update(skip_locked=True)
        ).first()
        if work is not None and _lose(session, work, max_attempts=max_attempts, what="Its worker is gone"):
            expired.append(work_id)
    waiting = session.exec(
        select(Work.queue, sa.func.min(Work.id))
        .where(Work.state == WorkState.QUEUED, is_available(col(Work.available_at_s)))
        .group_by(col(Work.queue))
    ).all()
    return Swept(expired=tuple(expired), waiting={Queue(queue): first for queue, first in waiting})


def lose(
    session: Session,
    claimed: Claim,
    *,
    max_attempts: int,
    what: str,
    code: FailureCode = FailureCode.WORKER_LOST,
) -> WorkState | None:
    """Give up an attempt whose child was killed, as its worker; return where the work came to, None: fenced."""
    work = session.exec(
        select(Work).where(Work.id == claimed.work_id, Work.fence == claimed.fence).with_for_update()
    ).first()
    return None if work is None else _lose(session, work, max_attempts=max_attempts, what=what, code=code)


def _lose(
    session: Session,
    work: Work,
    *,
    max_attempts: int,
    what: str,
    code: FailureCode = FailureCode.WORKER_LOST,
) -> WorkState | None:
    lost = work.lost_attempts + 1
    values: dict[str, Any] = {"lost_attempts": lost}
    failure = None
    if work.state is WorkState.CANCELLING:
        target, message = WorkState.CANCELLED, f"Cancelled; {_inside(what)}."
        values["finished_at"] = utc_now()
    elif lost >= max_attempts:
        target, failure = WorkState.FAILED, _lost(lost, what, code)
        values |= {"finished_at": utc_now(), "failure": failure}
        message = f"Failed: {failure['detail']}"
    elif work.state is WorkState.PAUSING:
        target, message = WorkState.PAUSED, f"Paused; {_inside(what)}, what it did since its last checkpoint is lost."
    else:
        target, message = WorkState.QUEUED, f"{what}; queued again (attempt {work.attempt} lost)."
    ending = Ending(target=target, message=message, outcome=AttemptOutcome.WORKER_LOST, failure=failure)
    return target if end_attempt(session, work.id, ending, fence=work.fence, **values) else None


def _inside(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _lost(times: int, what: str, code: FailureCode) -> dict[str, Any]:
    return {
        "code": code.value,
        "detail": f"{times} attempts in a row were lost, none with a step gained. {what}.",
        "remedy": f"{_LOOK[code]} Then retry the job; it goes on from its last checkpoint.",
        "retryable": True,
    }
