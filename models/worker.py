"""Workers: who is there, what they can take, when they were last heard of."""

from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, Session, SQLModel, col, select

from core.db import NowS, StrEnumType
from core.queue import Queue


class Worker(SQLModel, table=True):
    """One worker process. Times are on the database's clock, seconds since 1970."""

    __tablename__ = "worker"

    id: str = Field(primary_key=True, max_length=64)
    queue: Queue = Field(sa_type=StrEnumType(Queue))
    host: str = Field(max_length=255)
    pid: int
    version: str = Field(max_length=32)
    capacity: dict[str, Any] = Field(sa_type=sa.JSON, description="slots, cores, machine")
    device: str | None = Field(
        default=None, max_length=400, description="whose memory it uses, in words that no other device has"
    )
    headroom_bytes: int | None = Field(
        default=None, sa_type=sa.BigInteger, description="that its next piece of work may hold, when it last looked"
    )
    started_at_s: float = Field(sa_type=sa.Double)
    heartbeat_at_s: float = Field(sa_type=sa.Double)


def beat(session: Session, worker: Worker) -> None:
    """Write that a worker lives; the first time, that it is there."""
    known = session.execute(
        sa.update(Worker)
        .where(col(Worker.id) == worker.id)
        .values(heartbeat_at_s=NowS(), headroom_bytes=worker.headroom_bytes)
        .returning(col(Worker.id))
    ).first()
    if known is None:
        now = session.execute(select(NowS())).scalar_one()
        session.add(Worker.model_validate(worker, update={"started_at_s": now, "heartbeat_at_s": now}))


def forget(session: Session, worker_id: str) -> None:
    """Remove a worker that left in good order."""
    session.execute(sa.delete(Worker).where(col(Worker.id) == worker_id))


def forget_silent(session: Session, *, silent_s: float) -> None:
    """Remove workers that have not been heard of for a long time."""
    session.execute(sa.delete(Worker).where(col(Worker.heartbeat_at_s) < NowS() - silent_s))


def capacities(session: Session, queue: Queue, *, silent_s: float) -> list[dict[str, Any]]:
    """Return what the workers of a queue have that were heard of within `silent_s`."""
    query = select(Worker.capacity).where(Worker.queue == queue, col(Worker.heartbeat_at_s) >= NowS() - silent_s)
    return [dict(capacity) for capacity in session.exec(query.order_by(col(Worker.id)))]


def alive(session: Session, *, silent_s: float) -> dict[Queue, int]:
    """Return the number of workers per queue that were heard of within `silent_s`."""
    rows = session.execute(
        select(Worker.queue, sa.func.count())
        .where(col(Worker.heartbeat_at_s) >= NowS() - silent_s)
        .group_by(col(Worker.queue))
    ).all()
    return {Queue(queue): count for queue, count in rows}
