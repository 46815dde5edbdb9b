"""Checkpoints: where the next attempt of a job goes on. Their objects are whole before the row is there."""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, Session, SQLModel, col, select

from core.clock import utc_now
from core.db import UtcDateTime
from models.job import job_prefix
from models.states import TERMINAL, WorkState
from models.work import DEFAULT_PROJECT, Work

NUM_KEPT = 2  # the newest, and one in case that it is damaged


class Checkpoint(SQLModel, table=True):
    """A verified checkpoint of a job: everything that the next attempt needs to go on."""

    __tablename__ = "checkpoint"

    id: str = Field(primary_key=True, max_length=64)
    project: str = Field(default=DEFAULT_PROJECT, max_length=64)
    job_id: str = Field(foreign_key="job.id", index=True, max_length=64)
    step: int
    attempt: int = 0
    sha256: str = Field(max_length=64, description="of its manifest")
    size_bytes: int = Field(sa_type=sa.BigInteger)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)

    @property
    def prefix(self) -> str:
        """Return the prefix of this checkpoint's objects."""
        return checkpoint_prefix(self.project, self.job_id, self.sha256)


def checkpoints_prefix(project: str, job_id: str) -> str:
    """Return the prefix of the objects of all checkpoints of a job."""
    return f"{job_prefix(project, job_id)}/checkpoints"


def checkpoint_prefix(project: str, job_id: str, sha256: str) -> str:
    """Return the prefix of a checkpoint's objects; the same bytes have the same one."""
    return f"{checkpoints_prefix(project, job_id)}/{sha256}"


def of_job(session: Session, job_id: str) -> list[Checkpoint]:
    """Return the checkpoints of a job, the newest step first."""
    query = select(Checkpoint).where(Checkpoint.job_id == job_id)
    return list(session.exec(query.order_by(col(Checkpoint.step).desc(), col(Checkpoint.id).desc())))


def is_named(session: Session, checkpoint_id: str) -> bool:
    """Tell whether a checkpoint has its row."""
    return session.get(Checkpoint, checkpoint_id) is not None


def add(session: Session, checkpoint: Checkpoint) -> list[Checkpoint]:
    """Name a stored checkpoint; return the older ones whose rows were removed for it, and whose objects may go."""
    session.add(checkpoint)
    session.flush()
    rows = of_job(session, checkpoint.job_id)
    kept, old = rows[:NUM_KEPT], rows[NUM_KEPT:]
    forget(session, old)
    still_named = {each.sha256 for each in kept}
    return [each for each in old if each.sha256 not in still_named]


def forget(session: Session, checkpoints: Sequence[Checkpoint]) -> None:
    """Remove rows; their objects may go after the commit."""
    session.execute(sa.delete(Checkpoint).where(col(Checkpoint.id).in_([one.id for one in checkpoints])))


def superfluous(session: Session, *, ended_before: datetime, limit: int) -> list[Checkpoint]:
    """Return checkpoints that no attempt will need: of jobs that succeeded, or that ended otherwise long ago.

    Their jobs are held until the transaction ends; one that somebody else holds, to retry it, is passed by.
    """
    query = select(Checkpoint).join(Work, col(Work.id) == Checkpoint.job_id)
    ended_long_ago = sa.and_(col(Work.state).in_(TERMINAL), col(Work.finished_at) < ended_before)
    query = query.where(sa.or_(col(Work.state) == WorkState.SUCCEEDED, ended_long_ago))
    query = query.order_by(col(Checkpoint.id)).limit(limit).with_for_update(of=Work, skip_locked=True)
    return list(session.exec(query))
