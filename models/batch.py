"""Batches: the jobs that were made together, counted and listed. A job that was deleted is not among them."""

from sqlmodel import Session, col, func, select

from models.job import Batch, Job
from models.states import WorkState
from models.work import Work


def get(session: Session, batch_id: str, *, project: str) -> Batch | None:
    """Return a batch."""
    return session.exec(select(Batch).where(Batch.id == batch_id, Batch.project == project)).first()


def page(session: Session, *, project: str, before: str | None, limit: int) -> list[Batch]:
    """Return batches, newest first, older than the id `before`."""
    query = select(Batch).where(Batch.project == project)
    if before is not None:
        query = query.where(Batch.id < before)
    return list(session.exec(query.order_by(col(Batch.id).desc()).limit(limit)))


def jobs_of(session: Session, batch_id: str) -> list[tuple[Job, Work]]:
    """Return the jobs of a batch in the order of its grid."""
    query = select(Job, Work).join(Work, col(Work.id) == Job.id)
    query = query.where(Job.batch_id == batch_id, col(Job.deleted_at).is_(None))
    return list(session.exec(query.order_by(col(Job.id))).all())


def count_by_state(session: Session, batch_ids: list[str]) -> dict[str, dict[WorkState, int]]:
    """Return for each of these batches the number of its jobs in each state that has any."""
    query = (
        select(Job.batch_id, Work.state, func.count())
        .join(Work, col(Work.id) == Job.id)
        .where(col(Job.batch_id).in_(batch_ids), col(Job.deleted_at).is_(None))
        .group_by(col(Job.batch_id), col(Work.state))
    )
    counts: dict[str, dict[WorkState, int]] = {batch_id: {} for batch_id in batch_ids}
    for batch_id, state, count in session.exec(query):
        assert batch_id is not None
        counts[batch_id][WorkState(state)] = count
    return counts
