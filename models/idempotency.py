"""Answers kept under an `Idempotency-Key`, in the same transaction as the row that they are about."""

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, Session, SQLModel, col, select

from core.clock import utc_now
from core.db import UtcDateTime

KEEP = timedelta(hours=24)


class IdempotencyKey(SQLModel, table=True):
    """One stored answer. The primary key is what makes two requests at once into one job."""

    __tablename__ = "idempotency_key"

    project: str = Field(primary_key=True, max_length=64)
    key: str = Field(primary_key=True, max_length=255)
    route: str = Field(max_length=100, description="method and path")
    fingerprint: str = Field(max_length=64, description="sha256 of the request's body")
    status: int
    body: dict[str, Any] = Field(sa_type=sa.JSON)
    location: str | None = Field(default=None, max_length=255)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)


def hold(session: Session, *, project: str, key: str) -> bool:
    """Take a key until the transaction ends, however it ends; False: another process answers a request with it.

    On SQLite a writing transaction is alone, so whoever comes second finds the answer.
    """
    if session.get_bind().dialect.name != "postgresql":
        return True
    name = sa.func.hashtextextended(f"idempotency/{project}/{key}", 0)
    return bool(session.execute(sa.select(sa.func.pg_try_advisory_xact_lock(name))).scalar_one())


def find(session: Session, *, project: str, key: str) -> IdempotencyKey | None:
    """Return the stored answer of a key that is not older than a day."""
    query = select(IdempotencyKey).where(IdempotencyKey.project == project, IdempotencyKey.key == key)
    return session.exec(query.where(IdempotencyKey.created_at > utc_now() - KEEP)).first()


def forget_if_old(session: Session, *, project: str, key: str) -> None:
    """Remove the answer of a key that is older than a day and was not swept yet, so that the key is free."""
    of_key = sa.delete(IdempotencyKey).where(col(IdempotencyKey.project) == project, col(IdempotencyKey.key) == key)
    session.execute(of_key.where(col(IdempotencyKey.created_at) <= utc_now() - KEEP))


def forget_old(session: Session) -> None:
    """Remove the answers that are older than a day."""
    session.execute(sa.delete(IdempotencyKey).where(col(IdempotencyKey.created_at) <= utc_now() - KEEP))
