"""The `work` table: one row per leased piece of work, and its attempts."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, Session, SQLModel, col, select

from core.clock import utc_now
from core.db import NowS, StrEnumType, UtcDateTime
from core.events import Phase
from core.queue import Queue
from models.states import LEASED, AttemptOutcome, Kind, WorkState, sources

DEFAULT_PROJECT = "default"


def _states(values: type[Any]) -> str:
    return ", ".join(f"'{value}'" for value in values)


class Work(SQLModel, table=True):
    """The life of a data set's validation or of a job. Shares its id with the row that it belongs to."""

    __tablename__ = "work"
    __table_args__ = (
        sa.CheckConstraint(f"state IN ({_states(WorkState)})", name="ck_work_state"),
        sa.Index("ix_work_claim", "queue", "state", "priority", "id"),
    )

    id: str = Field(primary_key=True, max_length=64)
    project: str = Field(default=DEFAULT_PROJECT, max_length=64, index=True)
    kind: Kind = Field(sa_type=StrEnumType(Kind))
    queue: Queue = Field(sa_type=StrEnumType(Queue))
    state: WorkState = Field(default=WorkState.QUEUED, sa_type=StrEnumType(WorkState))
    phase: Phase | None = Field(default=None, sa_type=StrEnumType(Phase))
    priority: int = 0
    failure: dict[str, Any] | None = Field(default=None, sa_type=sa.JSON)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    started_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)

    fence: int = Field(default=0, description="grows with every claim; every write of a worker is guarded by it")
    attempt: int = 0
    lost_attempts: int = Field(default=0, description="attempts whose worker died; bounded")
    available_at_s: float = Field(default=0.0, sa_type=sa.Double, description="not claimed before; database clock")
    lease_owner: str | None = Field(default=None, max_length=64)
    lease_until_s: float | None = Field(default=None, sa_type=sa.Double, description="database clock")
    failed_attempts: int = Field(
        default=0, description="attempts that failed and were tried again by themselves; bounded"
    )
    gpus: int = Field(default=0, description="GPUs that it cannot do without")
    resource_class: str | None = Field(default=None, max_length=64, description="of the worker; null: any")
    needed_bytes: int | None = Field(
        default=None,
        sa_type=sa.BigInteger,
        description="that its plan may hold; must be free beside others; null: nobody knows",
    )
    least_bytes: int | None = Field(
        default=None,
        sa_type=sa.BigInteger,
        description="that it cannot do without, whatever is chosen for it; enough where nothing else runs; null: nobody knows",
    )
    promised_bytes: int | None = Field(
        default=None, sa_type=sa.BigInteger, description="that its attempt may hold; only counts while it is leased"
    )
    last_seq: int = Field(default=0, description="the sequence number of the newest log item")
    last_flush: int = Field(default=0, description="the newest flush of its attempt's events that the rows hold")


class Attempt(SQLModel, table=True):
    """One try at a piece of work, with its own end and its own range of the log."""

    __tablename__ = "attempt"
    __table_args__ = (sa.Index("ix_attempt_ended", "ended_s"),)

    work_id: str = Field(foreign_key="work.id", primary_key=True, max_length=64, ondelete="CASCADE")
    number: int = Field(primary_key=True)
    project: str = Field(default=DEFAULT_PROJECT, max_length=64)
    fence: int
    worker_id: str = Field(max_length=64)
    started_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    outcome: AttemptOutcome | None = Field(default=None, sa_type=StrEnumType(AttemptOutcome))
    failure: dict[str, Any] | None = Field(default=None, sa_type=sa.JSON)
    first_seq: int
    last_seq: int | None = None
    began_s: float = Field(default=0.0, sa_type=sa.Double, description="database clock")
    ended_s: float | None = Field(default=None, sa_type=sa.Double, description="database clock")
    resumed_step: int | None = Field(default=None, description="the step of the checkpoint that it went on from")


def transition(
    session: Session,
    work_id: str,
    target: WorkState,
    *,
    fence: int | None = None,
    unless: frozenset[WorkState] = frozenset(),
    **values: Any,
) -> bool:
    """Move a piece of work to `target` if the table of transitions allows it from where it stands.

    One conditional UPDATE; with `fence`, only the holder of that lease may, and only while the work is leased: a sweep
    takes the lease away without a new fence. `unless` narrows the states further. False: nothing was changed.
    """
    allowed = set(sources(target)) - unless
    statement = sa.update(Work).where(col(Work.id) == work_id)
    if fence is not None:
        allowed &= LEASED
        statement = statement.where(col(Work.fence) == fence)
    statement = statement.where(col(Work.state).in_(allowed))
    changed = session.execute(statement.values(state=target, **values).returning(col(Work.id)))
    return changed.first() is not None


def close_attempt(
    session: Session, work_id: str, outcome: AttemptOutcome, *, failure: dict[str, Any] | None = None
) -> None:
    """Write down how the open attempt of a piece of work ended."""
    newest = select(Work.last_seq).where(col(Work.id) == work_id).scalar_subquery()
    session.execute(
        sa.update(Attempt)
        .where(col(Attempt.work_id) == work_id, col(Attempt.ended_at).is_(None))
        .values(ended_at=utc_now(), ended_s=NowS(), outcome=outcome, failure=failure, last_seq=newest)
    )


def note_resumed(session: Session, work_id: str, step: int, *, fence: int) -> None:
    """Write down from which step's checkpoint an attempt goes on."""
    open_attempt = (col(Attempt.work_id) == work_id, col(Attempt.fence) == fence, col(Attempt.ended_at).is_(None))
    session.execute(sa.update(Attempt).where(*open_attempt).values(resumed_step=step))


def attempts_of(session: Session, work_id: str) -> list[Attempt]:
    """Return the attempts of a piece of work, oldest first."""
    return list(session.exec(select(Attempt).where(Attempt.work_id == work_id).order_by(col(Attempt.number))))
