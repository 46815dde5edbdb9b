"""The log of a piece of work: numbered items that never change."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, Session, SQLModel, col, select

from core.clock import utc_now
from core.db import StrEnumType, UtcDateTime
from models.states import LEASED, EventKind, WorkState
from models.work import DEFAULT_PROJECT, Work


class Event(SQLModel, table=True):
    """One item of a log; `seq` counts from 1 without gaps within one piece of work."""

    __tablename__ = "event"

    work_id: str = Field(foreign_key="work.id", primary_key=True, max_length=64, ondelete="CASCADE")
    seq: int = Field(primary_key=True)
    project: str = Field(default=DEFAULT_PROJECT, max_length=64)
    at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    kind: EventKind = Field(sa_type=StrEnumType(EventKind))
    level: str | None = Field(default=None, max_length=16)
    message: str | None = None
    data: dict[str, Any] | None = Field(default=None, sa_type=sa.JSON)
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A log item that has no number yet."""

    kind: EventKind
    message: str | None = None
    level: str | None = None
    data: dict[str, Any] | None = None


def append(session: Session, work_id: str, items: Sequence[Item], *, fence: int | None = None) -> WorkState | None:
    """Number and store items and return the state of their work (this is how a cancel arrives between heartbeats).

    With `fence`, only if that lease still holds. None: fenced, nothing stored.

    The UPDATE of the counter takes the row's lock, so numbers have no gaps and no doubles.
    """
    statement = sa.update(Work).where(col(Work.id) == work_id)
    if fence is not None:
        statement = statement.where(col(Work.fence) == fence, col(Work.state).in_(LEASED))
    counted = session.execute(
        statement.values(last_seq=col(Work.last_seq) + len(items)).returning(
            col(Work.last_seq), col(Work.project), col(Work.attempt), col(Work.state)
        )
    ).first()
    if counted is None:
        return None
    last_seq, project, attempt, state = counted
    at = utc_now()
    session.add_all(
        Event(
            work_id=work_id,
            seq=last_seq - len(items) + offset,
            project=project,
            at=at,
            kind=item.kind,
            level=item.level,
            message=_storable(item.message),
            data=_storable(item.data),
            attempt=attempt,
        )
        for offset, item in enumerate(items, start=1)
    )
    session.flush()
    return WorkState(state)


def _storable(value: Any) -> Any:
    """Write out NUL, which PostgreSQL keeps neither in text nor in JSON."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {_storable(name): _storable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    return value


def note(session: Session, work_id: str, message: str, *, fence: int | None = None, **data: Any) -> bool:
    """Append one change of state, said in a sentence."""
    item = Item(kind=EventKind.EVENT, level="info", message=message, data=data or None)
    return append(session, work_id, [item], fence=fence) is not None


def page(
    session: Session, work_id: str, *, after: int, limit: int, kinds: frozenset[EventKind] | None = None
) -> list[Event]:
    """Return the items with a number above `after`, in order."""
    query = select(Event).where(Event.work_id == work_id, Event.seq > after)
    if kinds is not None:
        query = query.where(col(Event.kind).in_(kinds))
    return list(session.exec(query.order_by(col(Event.seq)).limit(limit)))
