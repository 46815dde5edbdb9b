"""The archive of a job's log: its first items, as JSON lines in one object, instead of as rows."""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import sqlalchemy as sa
from sqlmodel import Session, col, select

from core.storage import Storage
from models.event import Event
from models.job import Job, archive_key
from models.states import TERMINAL, EventKind
from models.work import Work

_FIELDS = ("seq", "at", "kind", "attempt", "level", "message", "data")


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """The first `seq` items of a job's log as an object."""

    job_id: str
    project: str
    seq: int

    @property
    def key(self) -> str:
        """Return the object's key."""
        return archive_key(self.project, self.job_id, self.seq)

    def items(self, storage: Storage, *, after: int) -> Iterator[Event]:
        """Yield the items with a number above `after`; none of them belongs to a session."""
        with closing(storage.open(self.key)) as packed, gzip.open(packed) as lines:
            for line in islice(lines, after, None):  # numbers have no gaps, so the item of line n is n
                yield self._read(line)

    def _read(self, line: bytes) -> Event:
        fields = json.loads(line)
        at, kind = datetime.fromisoformat(fields.pop("at")), EventKind(fields.pop("kind"))
        return Event(work_id=self.job_id, project=self.project, at=at, kind=kind, **fields)


def packed(pages: Iterator[Sequence[Event]]) -> Iterator[bytes]:
    """Yield the bytes of an archive, piece by piece; the same items always give the same bytes."""
    deflate = zlib.compressobj(wbits=31)
    for page in pages:
        yield deflate.compress(b"".join(_line(item) for item in page))
    yield deflate.flush()


def due(session: Session, *, ended_before: datetime, limit: int) -> list[tuple[Archive, int]]:
    """Return the archives that are to be made, and to which item each log was archived before; oldest first."""
    query = (
        select(Job.id, Job.project, Work.last_seq, Job.archived_seq)
        .join(Work, col(Work.id) == Job.id)
        .where(
            col(Work.state).in_(TERMINAL),
            col(Work.finished_at) < ended_before,
            col(Job.deleted_at).is_(None),
            Work.last_seq > sa.func.coalesce(Job.archived_seq, 0),
        )
        .order_by(col(Work.finished_at))
        .limit(limit)
    )
    return [
        (Archive(job_id=job_id, project=project, seq=last_seq), archived_seq or 0)
        for job_id, project, last_seq, archived_seq in session.exec(query)
    ]


def settle(session: Session, archive: Archive) -> bool:
    """Let the archive take the place of the rows; False: the job went on meanwhile, or somebody else was here."""
    held = session.exec(
        select(Work.id)
        .where(Work.id == archive.job_id, Work.last_seq == archive.seq, col(Work.state).in_(TERMINAL))
        .with_for_update()
    ).first()
    if held is None:
        return False
    moved = session.execute(
        sa.update(Job)
        .where(col(Job.id) == archive.job_id, sa.func.coalesce(Job.archived_seq, 0) < archive.seq)
        .values(archived_seq=archive.seq)
        .returning(col(Job.id))
    ).first()
    if moved is None:
        return False
    session.execute(sa.delete(Event).where(col(Event.work_id) == archive.job_id, col(Event.seq) <= archive.seq))
    return True


def _line(item: Event) -> bytes:
    values = {name: getattr(item, name) for name in _FIELDS} | {"at": item.at.isoformat(), "kind": item.kind.value}
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"
