"""Jobs: what was asked, what it resolved to, how far it is."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, Session, SQLModel, col, func, select

from core.clock import utc_now
from core.db import UtcDateTime
from models.states import TERMINAL, Kind, WorkState
from models.work import DEFAULT_PROJECT, Work


class Job(SQLModel, table=True):
    """One fine-tuning job. Its state, phase, attempts and failure are its work's."""

    __tablename__ = "job"

    id: str = Field(foreign_key="work.id", primary_key=True, max_length=64, ondelete="CASCADE")
    project: str = Field(default=DEFAULT_PROJECT, max_length=64, index=True)
    name: str = Field(max_length=200)
    base_model: str = Field(max_length=500)
    dataset_id: str = Field(foreign_key="dataset.id", max_length=64, index=True)
    dataset_digest: str = Field(max_length=64)
    seed: int
    request: dict[str, Any] = Field(
        sa_type=sa.JSON, description="method, hyperparameters, image and resources as asked"
    )
    settings: dict[str, Any] | None = Field(default=None, sa_type=sa.JSON, description="what `auto` came to")
    provenance: dict[str, Any] | None = Field(default=None, sa_type=sa.JSON)
    progress: dict[str, Any] | None = Field(default=None, sa_type=sa.JSON)
    metrics: dict[str, Any] | None = Field(default=None, sa_type=sa.JSON, description="the last figure of each name")
    peak_memory_bytes: int | None = Field(default=None, sa_type=sa.BigInteger)
    labels: dict[str, str] = Field(default_factory=dict, sa_type=sa.JSON, description="the caller's `metadata`")
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)


def get(session: Session, job_id: str, *, project: str) -> tuple[Job, Work] | None:
    """Return a job and its work."""
    query = select(Job, Work).join(Work, col(Work.id) == Job.id)
    return session.exec(query.where(Job.id == job_id, Job.project == project)).first()


def page(
    session: Session, *, project: str, before: str | None, limit: int, state: WorkState | None = None
) -> list[tuple[Job, Work]]:
    """Return jobs, newest first, older than the id `before`."""
    query = select(Job, Work).join(Work, col(Work.id) == Job.id).where(Job.project == project)
    if before is not None:
        query = query.where(Job.id < before)
    if state is not None:
        query = query.where(Work.state == state)
    return list(session.exec(query.order_by(col(Job.id).desc()).limit(limit)).all())


def unended_of(session: Session, dataset_id: str) -> list[str]:
    """Return the ids of the jobs of a data set that have not ended, oldest first."""
    query = select(Job.id).join(Work, col(Work.id) == Job.id).where(Job.dataset_id == dataset_id)
    return list(session.exec(query.where(col(Work.state).not_in(TERMINAL)).order_by(col(Job.id))))


def queue_position(session: Session, work: Work) -> int | None:
    """Return how many pieces of work are claimed before this one, plus one; None when it does not wait."""
    if work.state is not WorkState.QUEUED:
        return None
    ahead = (
        select(func.count())
        .select_from(Work)
        .where(
            Work.queue == work.queue,
            Work.state == WorkState.QUEUED,
            sa.or_(
                col(Work.priority) > work.priority, sa.and_(col(Work.priority) == work.priority, col(Work.id) < work.id)
            ),
        )
    )
    return session.exec(ahead).one() + 1


def count_by_state(session: Session) -> dict[WorkState, int]:
    """Return the number of jobs in each state that has any."""
    query = select(Work.state, func.count()).where(Work.kind == Kind.TRAINING).group_by(col(Work.state))
    return {WorkState(state): count for state, count in session.exec(query)}


def record(session: Session, job_id: str, **values: Any) -> None:
    """Write what the run reported."""
    session.execute(sa.update(Job).where(col(Job.id) == job_id).values(**values))


def merge_metrics(session: Session, job_id: str, data: dict[str, Any], *, progress_names: tuple[str, ...]) -> None:
    """Keep the last figure of each name, and what of it is progress."""
    job = session.get_one(Job, job_id)
    job.metrics = (job.metrics or {}) | data
    job.progress = (job.progress or {}) | {name: data[name] for name in progress_names if name in data}
    session.add(job)
    session.flush()
