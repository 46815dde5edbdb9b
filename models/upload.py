"""Uploads in parts: a file on its way, and which parts of it are there."""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlmodel import Field, Session, SQLModel, col, select
from sqlmodel.sql.expression import SelectOfScalar

from core.clock import utc_now
from core.db import UtcDateTime
from models.states import UploadState
from models.work import DEFAULT_PROJECT

KEEP = timedelta(hours=24)  # after the last part, or after its use


class Upload(SQLModel, table=True):
    """A file that comes in parts. From `expires_at` on nothing finds it, and a sweep removes it with its objects."""

    __tablename__ = "upload"

    id: str = Field(primary_key=True, max_length=64)
    project: str = Field(default=DEFAULT_PROJECT, max_length=64, index=True)
    filename: str = Field(max_length=255)
    size_bytes: int = Field(sa_type=sa.BigInteger)
    part_bytes: int = Field(description="of every part but the last, which has the rest")
    dataset_id: str | None = Field(
        default=None, foreign_key="dataset.id", max_length=64, description="what it became; then its parts are gone"
    )
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    expires_at: datetime = Field(default_factory=lambda: utc_now() + KEEP, sa_type=UtcDateTime, index=True)

    @property
    def state(self) -> UploadState:
        """Return whether it still takes parts."""
        return UploadState.PENDING if self.dataset_id is None else UploadState.COMPLETED

    @property
    def num_parts(self) -> int:
        """Return how many parts the file has; they count from 1."""
        return math.ceil(self.size_bytes / self.part_bytes)

    @property
    def prefix(self) -> str:
        """Return the prefix of the parts' objects."""
        return f"{self.project}/uploads/{self.id}"

    def bytes_of(self, number: int) -> int:
        """Return how long a part has to be."""
        return min(self.part_bytes, self.size_bytes - (number - 1) * self.part_bytes)


class UploadPart(SQLModel, table=True):
    """A part that is there, whole and verified. Sent again it has another key, so no object is ever changed."""

    __tablename__ = "upload_part"

    upload_id: str = Field(foreign_key="upload.id", primary_key=True, max_length=64, ondelete="CASCADE")
    number: int = Field(primary_key=True)
    project: str = Field(default=DEFAULT_PROJECT, max_length=64)
    key: str = Field(max_length=255)
    sha256: str = Field(max_length=64)
    size_bytes: int = Field(sa_type=sa.BigInteger)


def get(session: Session, upload_id: str, *, project: str) -> Upload | None:
    """Return an upload that has not expired."""
    return session.exec(_alive(project).where(Upload.id == upload_id)).first()


def hold(session: Session, upload_id: str, *, project: str) -> Upload | None:
    """Return an upload with its row held until the transaction ends, so that a part, a use and an end wait for each other."""
    return session.exec(_alive(project).where(Upload.id == upload_id).with_for_update()).first()


def page(session: Session, *, project: str, before: str | None, limit: int) -> list[Upload]:
    """Return uploads, newest first, older than the id `before`."""
    query = _alive(project)
    if before is not None:
        query = query.where(Upload.id < before)
    return list(session.exec(query.order_by(col(Upload.id).desc()).limit(limit)))


def parts_of(session: Session, upload_ids: Sequence[str]) -> dict[str, list[UploadPart]]:
    """Return the parts that are there of each of these uploads, in order."""
    query = select(UploadPart).where(col(UploadPart.upload_id).in_(upload_ids))
    parts: dict[str, list[UploadPart]] = {upload_id: [] for upload_id in upload_ids}
    for part in session.exec(query.order_by(col(UploadPart.upload_id), col(UploadPart.number))):
        parts[part.upload_id].append(part)
    return parts


def keep_part(session: Session, held: Upload, part: UploadPart) -> str | None:
    """Write that a part is there, and return the key of the object that nobody needs any more.

    That is the object of the part in whose place this one came; of this one, when the same bytes are there already.
    """
    held.expires_at = utc_now() + KEEP
    session.add(held)
    known = session.get(UploadPart, (part.upload_id, part.number))
    if known is not None and known.sha256 == part.sha256:
        return part.key
    superseded = known.key if known is not None else None
    session.merge(part)
    session.flush()
    return superseded


def use(session: Session, held: Upload, *, dataset_id: str) -> None:
    """Write what an upload became; it is shown for another day."""
    held.dataset_id, held.expires_at = dataset_id, utc_now() + KEEP
    session.add(held)
    session.flush()


def expire(session: Session, held: Upload) -> None:
    """End an upload now."""
    held.expires_at = utc_now()
    session.add(held)
    session.flush()


def expired(session: Session, *, limit: int) -> list[Upload]:
    """Return uploads that nothing finds any more, the oldest first."""
    query = select(Upload).where(col(Upload.expires_at) <= utc_now())
    return list(session.exec(query.order_by(col(Upload.expires_at)).limit(limit)))


def forget(session: Session, upload_id: str) -> None:
    """Remove the row of an expired upload whose objects are gone, and those of its parts."""
    of_upload = sa.delete(Upload).where(col(Upload.id) == upload_id)
    session.execute(of_upload.where(col(Upload.expires_at) <= utc_now()))


def _alive(project: str) -> SelectOfScalar[Upload]:
    return select(Upload).where(Upload.project == project, col(Upload.expires_at) > utc_now())
