"""What of a queue a forecast needs, in one look: who waits, who runs, which workers live, who used how much."""

from dataclasses import dataclass
from statistics import median
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col

from core.db import NowS
from core.queue import Queue
from models.claims import device_time
from models.job import Job
from models.leases import LONGEST_WAIT_S
from models.states import LEASED, WorkState
from models.work import Attempt, Work
from models.worker import Worker

NUM_MEASURED = 20  # jobs of a base whose speed counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One piece of work that waits or runs; `seconds_left` is what it still needs, null where nobody knows."""

    id: str
    project: str
    priority: int
    gpus: int
    resource_class: str | None
    needed_bytes: int | None
    least_bytes: int | None
    held_s: float
    worker_id: str | None
    seconds_left: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A queue at one moment."""

    waiting: list[Entry]
    running: list[Entry]
    workers: dict[str, dict[str, Any]]
    used_s: dict[str, float]


def look(session: Session, queue: Queue, *, silent_s: float) -> Snapshot:
    """Return the queue as it stands; a worker that was silent for so long does not count."""
    now_s = session.execute(sa.select(NowS())).scalar_one()
    work = [
        getattr(Work, name)
        for name in ("id", "project", "priority", "gpus", "resource_class", "needed_bytes", "least_bytes", "state")
    ]
    lease = [col(Work.available_at_s), col(Work.lease_owner), col(Attempt.began_s)]
    job = [col(Job.base_model), col(Job.planned_examples), col(Job.progress)]
    rows = session.execute(
        sa.select(*work, *lease, *job)
        .outerjoin(Job, col(Job.id) == col(Work.id))
        .outerjoin(Attempt, sa.and_(col(Attempt.work_id) == col(Work.id), col(Attempt.ended_at).is_(None)))
        .where(col(Work.queue) == queue, col(Work.state).in_([WorkState.QUEUED, *LEASED]))
    ).all()
    rates = {base: _seconds_per_example(session, base) for base in {row.base_model for row in rows if row.base_model}}
    waiting: list[Entry] = []
    running: list[Entry] = []
    for row in rows:
        is_waiting = row.state is WorkState.QUEUED
        held_s = row.available_at_s - now_s
        expected = _expected(row.planned_examples, row.progress, rates.get(row.base_model))
        entry = Entry(
            id=row.id,
            project=row.project,
            priority=row.priority,
            gpus=row.gpus,
            resource_class=row.resource_class,
            needed_bytes=row.needed_bytes,
            least_bytes=row.least_bytes,
            held_s=held_s if 0 < held_s <= LONGEST_WAIT_S else 0.0,
            worker_id=row.lease_owner,
            seconds_left=(
                expected
                if is_waiting
                else _remaining(row.progress, now_s, began_s=row.began_s or 0.0, expected=expected)
            ),
        )
        (waiting if is_waiting else running).append(entry)
    workers = session.execute(
        sa.select(col(Worker.id), col(Worker.capacity), col(Worker.device), col(Worker.headroom_bytes)).where(
            col(Worker.queue) == queue, col(Worker.heartbeat_at_s) >= now_s - silent_s
        )
    ).all()
    used = device_time(queue)
    return Snapshot(
        waiting=waiting,
        running=running,
        workers={
            row.id: row.capacity | {"memory_of": row.device, "headroom_bytes": row.headroom_bytes} for row in workers
        },
        used_s={row.project: row.used_s for row in session.execute(sa.select(used.c.project, used.c.used_s))},
    )


def _seconds_per_example(session: Session, base_model: str) -> float | None:
    """Return the median over the last jobs of a base that succeeded, all attempts of each together."""
    last = (
        sa.select(col(Job.id), col(Job.planned_examples))
        .join(Work, col(Work.id) == col(Job.id))
        .where(
            col(Job.base_model) == base_model,
            col(Work.state) == WorkState.SUCCEEDED,
            col(Job.planned_examples) > 0,
        )
        .order_by(col(Work.finished_at).desc())
        .limit(NUM_MEASURED)
        .subquery()
    )
    seconds = sa.func.sum(col(Attempt.ended_s) - col(Attempt.began_s))
    rows = session.execute(
        sa.select(seconds, last.c.planned_examples)
        .join(last, last.c.id == col(Attempt.work_id))
        .where(col(Attempt.ended_s).is_not(None))
        .group_by(last.c.id, last.c.planned_examples)
    ).all()
    return median(taken / examples for taken, examples in rows) if rows else None


def runs_of(session: Session, base_model: str, place: str) -> list[tuple[float, float]]:
    """Return (seconds, operations) of the last jobs of a base that succeeded on such a device, all attempts of each together."""
    last = session.execute(
        sa.select(col(Job.id), col(Job.plan))
        .join(Work, col(Work.id) == col(Job.id))
        .where(
            col(Job.base_model) == base_model, col(Work.state) == WorkState.SUCCEEDED, col(Job.measured).is_not(None)
        )
        .order_by(col(Work.finished_at).desc())
        .limit(NUM_MEASURED)
    ).all()
    todo = {
        job_id: plan["time"]["operations"]
        for job_id, plan in last
        if plan and plan.get("place") == place and plan.get("time")
    }
    taken = session.execute(
        sa.select(col(Attempt.work_id), sa.func.sum(col(Attempt.ended_s) - col(Attempt.began_s)))
        .where(col(Attempt.work_id).in_(todo), col(Attempt.ended_s).is_not(None))
        .group_by(col(Attempt.work_id))
    ).all()
    return [(seconds, todo[job_id]) for job_id, seconds in taken]


def _expected(planned_examples: int | None, progress: dict[str, Any] | None, rate: float | None) -> float | None:
    if planned_examples is None or rate is None:
        return None
    total = (progress or {}).get("total_steps")
    done = (progress or {}).get("step", 0) / total if total else 0.0
    return planned_examples * rate * max(0.0, 1 - done)


def _remaining(
    progress: dict[str, Any] | None, now_s: float, *, began_s: float, expected: float | None
) -> float | None:
    """Return what is left by what was last heard; a run that is silent does not move its end, and an overdue one ends now.

    What the attempt before this one said counts from the beginning of this one, and so does what jobs like it took
    where nothing was heard yet.
    """
    told = progress or {}
    if told.get("eta_s") is None or told.get("at") is None:
        return None if expected is None else max(0.0, began_s + expected - now_s)
    return max(0.0, max(float(told["at"]), began_s) + float(told["eta_s"]) - now_s)
