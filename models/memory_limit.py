"""What was learned of a device's memory: how much of a run may go through the model at once, by the kind of run."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, Session, SQLModel

from core.clock import utc_now
from core.db import UtcDateTime


class MemoryLimit(SQLModel, table=True):
    """The limit of one configuration on one kind of device."""

    __tablename__ = "memory_limit"

    key: str = Field(primary_key=True, max_length=64, description="digest of the configuration and the device")
    device: str = Field(max_length=200)
    base_model: str = Field(max_length=500)
    limit: dict[str, Any] = Field(sa_type=sa.JSON, description="`training.pass_limit.PassLimit`")
    learned_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)


def find(session: Session, key: str) -> dict[str, Any] | None:
    """Return what was learned, if anything was."""
    row = session.get(MemoryLimit, key)
    return None if row is None else row.limit


def learn(session: Session, limit: MemoryLimit) -> None:
    """Keep a limit in place of an older one."""
    session.merge(limit)
