"""What was learned of a device's memory: how much of a run may go through the model at once, by the kind of run."""

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, Session, SQLModel

from core.clock import utc_now
from core.db import UtcDateTime

_FORGOTTEN_AFTER = timedelta(days=30)  # a machine may have more memory by then, or fewer neighbours


class MemoryLimit(SQLModel, table=True):
    """The limit of one configuration on one kind of device."""

    __tablename__ = "memory_limit"

    key: str = Field(primary_key=True, max_length=64, description="digest of the configuration and the device")
    device: str = Field(max_length=200)
    base_model: str = Field(max_length=500)
    limit: dict[str, Any] = Field(sa_type=sa.JSON, description="`training.pass_limit.PassLimit`")
    learned_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)


def find(session: Session, key: str) -> dict[str, Any] | None:
    """Return what was learned, if anything was lately."""
    row = session.get(MemoryLimit, key)
    return None if row is None or utc_now() - row.learned_at > _FORGOTTEN_AFTER else row.limit


def learn(session: Session, limit: MemoryLimit) -> None:
    """Keep a limit; where one is known, the smaller of each of their bounds."""
    try:
        with session.begin_nested():  # another worker may learn the same at this moment
            session.add(limit.model_copy())
            session.flush()
    except IntegrityError:
        known = session.get_one(MemoryLimit, limit.key, with_for_update=True)
        is_old = utc_now() - known.learned_at > _FORGOTTEN_AFTER
        known.limit = limit.limit if is_old else _smaller(known.limit, limit.limit)
        known.learned_at = limit.learned_at
        session.add(known)
        session.flush()


def _smaller(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    tokens = [each["num_tokens"] for each in (one, other) if each["num_tokens"] is not None]
    return {
        "num_examples": min(one["num_examples"], other["num_examples"]),
        "num_tokens": min(tokens, default=None),
        "gradient_checkpointing": one["gradient_checkpointing"] or other["gradient_checkpointing"],
    }
