"""The log of a piece of work: numbered items that never change."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlmodel import Field, Session, SQLModel, col, select
from sqlmodel.sql.expression import SelectOfScalar

from core.clock import utc_now
from core.db import StrEnumType, UtcDateTime, insert, values_of
from models.job import Job
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

    def numbered(self, seq: int, work_id: str, *, project: str, at: datetime, attempt: int) -> dict[str, Any]:
        """Return the columns of this item's row."""
        return {
            "work_id": work_id,
            "seq": seq,
            "project": project,
            "at": at,
            "kind": self.kind,
            "level": self.level,
            "message": _storable(self.message),
            "data": _storable(self.data),
            "attempt": attempt,
        }


def append(
    session: Session, work_id: str, items: Sequence[Item], *, fence: int | None = None, flush: int | None = None
) -> WorkState | None:
    """Number and store items and return the state of their work (this is how a cancel arrives between heartbeats).

    With `fence`, only if that lease still holds. None: fenced, nothing stored. `flush`: the number of what an attempt
    writes together, for `has_flush`.

    The UPDATE of the counter takes the row's lock, so numbers have no gaps and no doubles.
    """
    statement = sa.update(Work).where(col(Work.id) == work_id)
    if fence is not None:
        statement = statement.where(col(Work.fence) == fence, col(Work.state).in_(LEASED))
    values: dict[str, Any] = {"last_seq": col(Work.last_seq) + len(items)}
    if flush is not None:
        values["last_flush"] = flush
    counted = session.execute(
        statement.values(**values).returning(col(Work.last_seq), col(Work.project), col(Work.attempt), col(Work.state))
    ).first()
    if counted is None:
        return None
    last_seq, project, attempt, state = counted
    if items:
        first_seq, at = last_seq - len(items) + 1, utc_now()
        numbered = enumerate(items, start=first_seq)
        rows = (item.numbered(seq, work_id, project=project, at=at, attempt=attempt) for seq, item in numbered)
        insert(session, Event, *rows)
    return WorkState(state)


def has_flush(session: Session, work_id: str, flush: int, *, fence: int) -> bool:
    """Tell whether a flush was stored whose commit had no answer."""
    newest = select(Work.last_flush).where(Work.id == work_id, Work.fence == fence)
    waiting = newest.with_for_update(key_share=True)  # for one that is being committed at this moment
    return session.exec(waiting).first() == flush


def _storable(value: Any) -> Any:
    """Write out NUL, which PostgreSQL keeps neither in text nor in JSON."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {_storable(name): _storable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    return value


def begin(session: Session, work: Work, message: str, **data: Any) -> None:
    """Insert a piece of work together with the first item of its log."""
    work.last_seq = 1
    insert(session, Work, values_of(work))
    first = Item(kind=EventKind.EVENT, level="info", message=message, data=data or None)
    insert(session, Event, first.numbered(1, work.id, project=work.project, at=work.created_at, attempt=work.attempt))


def forget(session: Session, work_id: str) -> None:
    """Remove the rows of a log that nobody can ask for any more."""
    session.execute(sa.delete(Event).where(col(Event.work_id) == work_id))


def note(session: Session, work_id: str, message: str, *, fence: int | None = None, **data: Any) -> bool:
    """Append one change of state, said in a sentence."""
    item = Item(kind=EventKind.EVENT, level="info", message=message, data=data or None)
    return append(session, work_id, [item], fence=fence) is not None


def page(
    session: Session, work_id: str, *, after: int, limit: int, kinds: frozenset[EventKind] | None = None
) -> list[Event]:
    """Return the rows with a number above `after`, in order. A job's log may lie elsewhere: read it with `models.history`."""
    return list(session.exec(_rows(work_id, after, kinds).order_by(col(Event.seq)).limit(limit)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one statement saw of a job and of the rows of its log; `archived_seq` is 0 where nothing is archived."""

    project: str
    state: WorkState
    last_seq: int
    archived_seq: int
    rows: list[Event]


def look(
    session: Session, job_id: str, *, after: int, limit: int, kinds: frozenset[EventKind] | None = None
) -> Look | None:
    """Return how a job stands and the rows of its log with a number above `after`, in order; None: there is no such job.

    One statement, because one statement sees one moment: between two, a job may end, or its rows may become an archive.
    """
    rows = _rows(job_id, after, kinds).order_by(col(Event.seq)).limit(limit)
    found = aliased(Event, rows.subquery())
    query = (
        sa.select(col(Job.project), col(Work.state), col(Work.last_seq), col(Job.archived_seq), found)
        .select_from(Work)
        .join(Job, col(Job.id) == Work.id)
        .outerjoin(found, col(found.work_id) == Work.id)
        .where(col(Work.id) == job_id, col(Job.deleted_at).is_(None))
        .order_by(col(found.seq))
    )
    seen = session.execute(query).all()
    if not seen:
        return None
    project, state, last_seq, archived_seq, _ = seen[0]
    return Look(
        project=project,
        state=state,
        last_seq=last_seq,
        archived_seq=archived_seq or 0,
        rows=[row for *_, row in seen if row is not None],
    )


def heads(session: Session, job_ids: Sequence[str]) -> dict[str, tuple[int, WorkState]]:
    """Return the newest number of the log and the state of each of these jobs; one that is gone is missing."""
    query = (
        select(Work.id, Work.last_seq, Work.state)
        .join(Job, col(Job.id) == Work.id)
        .where(col(Work.id).in_(job_ids), col(Job.deleted_at).is_(None))
    )
    return {job_id: (last_seq, WorkState(state)) for job_id, last_seq, state in session.exec(query)}


def _rows(work_id: str, after: int, kinds: frozenset[EventKind] | None) -> SelectOfScalar[Event]:
    rows = select(Event).where(Event.work_id == work_id, Event.seq > after)
    return rows if kinds is None else rows.where(col(Event.kind).in_(kinds))
