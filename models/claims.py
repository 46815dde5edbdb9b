"""Claims: which piece of work is next, and taking it under a lease."""

import sqlalchemy as sa
from sqlmodel import Session, col, select

from core.clock import utc_now
from core.db import NowS, UtcDateTime
from core.queue import Queue
from models.event import note
from models.leases import Claim
from models.states import WorkState
from models.work import Attempt, Work


def claim(session: Session, queue: Queue, *, worker_id: str, lease_s: float) -> Claim | None:
    """Take the next piece of work of a queue, by priority and then by age; None when there is none."""
    waiting = (
        select(Work.id)
        .where(Work.queue == queue, Work.state == WorkState.QUEUED, col(Work.available_at_s) <= NowS())
        .order_by(col(Work.priority).desc(), col(Work.id))
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    taken = session.execute(
        sa.update(Work)
        .where(col(Work.id) == waiting.scalar_subquery(), col(Work.state) == WorkState.QUEUED)
        .values(
            state=WorkState.RUNNING,
            fence=col(Work.fence) + 1,
            attempt=col(Work.attempt) + 1,
            lease_owner=worker_id,
            lease_until_s=NowS() + lease_s,
            started_at=sa.func.coalesce(col(Work.started_at), sa.literal(utc_now(), UtcDateTime())),
            finished_at=None,
            failure=None,
        )
        .returning(
            col(Work.id),
            col(Work.project),
            col(Work.kind),
            col(Work.fence),
            col(Work.attempt),
            col(Work.last_seq),
            NowS(),
        )
    ).first()
    if taken is None:
        return None
    work_id, project, kind, fence, attempt, last_seq, now_s = taken
    session.add(
        Attempt(
            work_id=work_id,
            project=project,
            number=attempt,
            fence=fence,
            worker_id=worker_id,
            first_seq=last_seq + 1,
            began_s=now_s,
        )
    )
    session.flush()
    note(session, work_id, f"Attempt {attempt} started.", fence=fence, state=WorkState.RUNNING, worker=worker_id)
    return Claim(work_id=work_id, project=project, kind=kind, fence=fence, attempt=attempt)
