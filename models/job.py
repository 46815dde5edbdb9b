"""Jobs: what was asked, what it resolved to, how far it is."""

from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, Session, SQLModel, col, func, select
from sqlmodel.sql.expression import Select, SelectOfScalar

from core.clock import utc_now
from core.db import NowS, UtcDateTime
from models.states import TERMINAL, WorkState
from models.work import DEFAULT_PROJECT, Work

_STILL_TRUE = ("time",)  # of a plan that was made with the job


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
    plan: dict[str, Any] | None = Field(
        default=None, sa_type=sa.JSON(none_as_null=True), description="the memory that the run will hold"
    )
    measured: dict[str, Any] | None = Field(
        default=None, sa_type=sa.JSON(none_as_null=True), description="the memory that it held"
    )
    planned_examples: int | None = Field(default=None, description="that the run will take, repeats included")
    clone_of: str | None = Field(default=None, max_length=64, description="the job whose request this one began with")
    batch_id: str | None = Field(default=None, foreign_key="batch.id", max_length=64, index=True)
    overrides: dict[str, Any] | None = Field(
        default=None, sa_type=sa.JSON, description="what of the batch's grid this job took, by its dotted names"
    )
    metrics_from_seq: int = Field(
        default=1, description="metrics of the log before it belong to a run that was given up"
    )
    archived_seq: int | None = Field(default=None, description="items up to it lie in the archive, not in SQL")
    deleted_at: datetime | None = Field(
        default=None, sa_type=UtcDateTime, description="hidden since then; the row stays for its adapter"
    )
    labels: dict[str, str] = Field(default_factory=dict, sa_type=sa.JSON, description="the caller's `metadata`")
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)


class Batch(SQLModel, table=True):
    """Jobs that were made together from one request and a grid of overrides. Its state is theirs."""

    __tablename__ = "batch"

    id: str = Field(primary_key=True, max_length=64)
    project: str = Field(default=DEFAULT_PROJECT, max_length=64, index=True)
    name: str = Field(max_length=200)
    request: dict[str, Any] = Field(sa_type=sa.JSON, description="the job that all of them began with")
    grid: dict[str, Any] = Field(sa_type=sa.JSON, description="the values of each dotted name")
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)


def job_prefix(project: str, job_id: str) -> str:
    """Return the prefix of the objects of a job: its checkpoints, its archived log."""
    return f"{project}/jobs/{job_id}"


def archive_key(project: str, job_id: str, archived_seq: int) -> str:
    """Return the key of the archive of the first so many items of a job's log: JSON lines, gzip.

    Items never change, so whatever writes under this key writes the same; even a worker that froze and woke.
    """
    return f"{job_prefix(project, job_id)}/log-{archived_seq}.ndjson.gz"


def get(session: Session, job_id: str, *, project: str) -> tuple[Job, Work] | None:
    """Return a job and its work; one that was deleted is not there."""
    return session.exec(_shown(project).where(Job.id == job_id)).first()


def hold(session: Session, job_id: str, *, project: str) -> tuple[Job, Work] | None:
    """Return a job and its work, with the work's row held until the transaction ends: nobody else moves it meanwhile."""
    of_id = select(Work.id).where(Work.id == job_id)
    if session.exec(of_id.with_for_update(key_share=True)).first() is None:
        return None
    return get(session, job_id, project=project)  # a statement of its own: it sees what was committed before the lock


def page(
    session: Session,
    *,
    project: str,
    before: str | None,
    limit: int,
    state: WorkState | None = None,
    batch_id: str | None = None,
) -> list[tuple[Job, Work]]:
    """Return jobs, newest first, older than the id `before`."""
    query = _shown(project)
    if before is not None:
        query = query.where(Job.id < before)
    if state is not None:
        query = query.where(Work.state == state)
    if batch_id is not None:
        query = query.where(Job.batch_id == batch_id)
    return list(session.exec(query.order_by(col(Job.id).desc()).limit(limit)).all())


def measured(session: Session, *, project: str, limit: int) -> list[Job]:
    """Return the newest jobs that have both a memory plan and what was measured."""
    query = _shown(project).where(col(Job.plan).is_not(None), col(Job.measured).is_not(None))
    return [job for job, _ in session.exec(query.order_by(col(Job.id).desc()).limit(limit))]


def unended_of(session: Session, dataset_id: str) -> list[str]:
    """Return the ids of the jobs of a data set that have not ended, oldest first."""
    query = select(Job.id).join(Work, col(Work.id) == Job.id).where(Job.dataset_id == dataset_id)
    return list(session.exec(query.where(col(Work.state).not_in(TERMINAL)).order_by(col(Job.id))))


def queue_position(session: Session, work: Work) -> int | None:
    """Return this work's place by priority and age, from 1 on; None when it does not wait.

    Shares of projects are not in it: `api.jobs.forecast` knows them.
    """
    if work.state is not WorkState.QUEUED:
        return None
    place = {"queue": work.queue, "priority": work.priority, "id": work.id}
    return int(session.connection().execute(_ahead(), place).scalar_one()) + 1


@cache
def _ahead() -> SelectOfScalar[int]:
    """Made once: to put it together takes longer than to run it."""
    priority = sa.bindparam("priority", type_=sa.Integer)
    earlier = sa.and_(col(Work.priority) == priority, col(Work.id) < sa.bindparam("id"))
    return (
        select(func.count())
        .select_from(Work)
        .where(
            col(Work.queue) == sa.bindparam("queue"),
            col(Work.state) == WorkState.QUEUED,
            sa.or_(col(Work.priority) > priority, earlier),
        )
    )


def count_by_state(session: Session) -> dict[WorkState, int]:
    """Return the number of jobs in each state that has any."""
    query = select(Work.state, func.count()).join(Job, col(Job.id) == Work.id).where(col(Job.deleted_at).is_(None))
    query = query.group_by(col(Work.state))
    return {WorkState(state): count for state, count in session.exec(query)}


def delete(session: Session, job_id: str) -> None:
    """Hide a job from everything that looks for one; its adapter stays."""
    record(session, job_id, deleted_at=utc_now())


def record(session: Session, job_id: str, **values: Any) -> None:
    """Write what the run reported."""
    session.execute(sa.update(Job).where(col(Job.id) == job_id).values(**values))


def record_plan(session: Session, job_id: str, plan: dict[str, Any]) -> None:
    """Write what the run will hold, in place of what was foreseen; how long it takes is still what was foreseen."""
    job, work, needed = session.get_one(Job, job_id), session.get_one(Work, job_id), plan.get("needed")
    if work.needed_bytes is not None and needed is not None and (job.plan or {}).get("device") == plan.get("device"):
        work.needed_bytes = max(work.needed_bytes, needed)  # another attempt waits until that is free
    work.promised_bytes = needed
    job.plan = {name: value for name, value in (job.plan or {}).items() if name in _STILL_TRUE} | plan
    session.add(job)
    session.flush()


def begin_anew(session: Session, job_id: str) -> None:
    """Let the curve of a job begin behind what its log has so far; the last figures are forgotten."""
    newest = select(Work.last_seq).where(Work.id == job_id).scalar_subquery()
    record(session, job_id, metrics_from_seq=newest + 1, progress=None, metrics=None)


def merge_metrics(
    session: Session, job_id: str, data: dict[str, Any], *, progress_names: tuple[str, ...], told: dict[str, Any]
) -> None:
    """Keep the last figure of each name, what of it is progress, and how far the log tells it."""
    job = session.get_one(Job, job_id)
    job.metrics = (job.metrics or {}) | data
    heard = {name: data[name] for name in progress_names if name in data}
    if "eta_s" in heard:  # what is left counts from now
        heard["at"] = session.execute(select(NowS())).scalar_one()
    job.progress = (job.progress or {}) | heard | told
    session.add(job)
    session.flush()


def _shown(project: str) -> Select[Job, Work]:
    query = select(Job, Work).join(Work, col(Work.id) == Job.id)
    return query.where(Job.project == project, col(Job.deleted_at).is_(None))
