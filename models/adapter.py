"""Adapters: what training made."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, Session, SQLModel, col, select

from core.clock import utc_now
from core.db import StrEnumType, UtcDateTime
from models.states import AdapterState
from models.work import DEFAULT_PROJECT


class Adapter(SQLModel, table=True):
    """A published adapter; its folder never changes, and `sha256` is the digest of its manifest."""

    __tablename__ = "adapter"

    id: str = Field(primary_key=True, max_length=64)
    project: str = Field(default=DEFAULT_PROJECT, max_length=64, index=True)
    job_id: str = Field(foreign_key="job.id", unique=True, max_length=64)
    name: str = Field(max_length=200)
    state: AdapterState = Field(default=AdapterState.VERIFYING, sa_type=StrEnumType(AdapterState))
    base_model: str = Field(max_length=500)
    base_revision: str = Field(max_length=128)
    sha256: str = Field(max_length=64)
    size_bytes: int = Field(sa_type=sa.BigInteger)
    metrics: dict[str, Any] | None = Field(default=None, sa_type=sa.JSON)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)

    @property
    def prefix(self) -> str:
        """Return the prefix of this adapter's objects."""
        return adapter_prefix(self.project, self.sha256)


def adapter_prefix(project: str, sha256: str) -> str:
    """Return the prefix of an adapter's objects."""
    return f"{project}/adapters/{sha256}"


def get(session: Session, adapter_id: str, *, project: str) -> Adapter | None:
    """Return an adapter."""
    return session.exec(select(Adapter).where(Adapter.id == adapter_id, Adapter.project == project)).first()


def of_jobs(session: Session, job_ids: list[str]) -> dict[str, str]:
    """Return the adapter id of each of these jobs that has one."""
    query = select(Adapter.job_id, Adapter.id).where(col(Adapter.job_id).in_(job_ids))
    return dict(session.exec(query).all())


def page(session: Session, *, project: str, before: str | None, limit: int) -> list[Adapter]:
    """Return adapters, newest first, older than the id `before`."""
    query = select(Adapter).where(Adapter.project == project)
    if before is not None:
        query = query.where(Adapter.id < before)
    return list(session.exec(query.order_by(col(Adapter.id).desc()).limit(limit)))
