"""Data sets: what was uploaded, and what validation made of it."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, Session, SQLModel, col, select

from core.clock import utc_now
from core.db import UtcDateTime
from models.work import DEFAULT_PROJECT, Work


class Dataset(SQLModel, table=True):
    """One data set. Its state is its work's (`models.states.dataset_state`)."""

    __tablename__ = "dataset"

    id: str = Field(foreign_key="work.id", primary_key=True, max_length=64, ondelete="CASCADE")
    project: str = Field(default=DEFAULT_PROJECT, max_length=64, index=True)
    name: str = Field(max_length=200)
    filename: str = Field(max_length=255)
    container: str = Field(max_length=16)
    on_bad_row: str = Field(default="fail", max_length=16)
    upload_sha256: str = Field(max_length=64)
    upload_bytes: int = Field(sa_type=sa.BigInteger)
    digest: str | None = Field(default=None, max_length=64)
    num_examples: int | None = None
    num_issues: int | None = None
    num_skipped: int | None = None
    num_images: int | None = None
    splits: dict[str, int] | None = Field(default=None, sa_type=sa.JSON)
    report_fence: int | None = Field(default=None, description="the attempt whose report counts; none yet: null")
    progress: dict[str, Any] | None = Field(default=None, sa_type=sa.JSON)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)

    @property
    def prefix(self) -> str:
        """Return the prefix of this data set's objects."""
        return f"{self.project}/datasets/{self.id}"

    @property
    def upload_key(self) -> str:
        """Return the key of the file as it was uploaded."""
        return f"{self.prefix}/upload"

    @property
    def has_report(self) -> bool:
        """Tell whether a validation came to an end and said what it found."""
        return self.report_fence is not None

    def records_key(self, digest: str) -> str:
        """Return the key of the canonical table; its digest is in it, so a late worker overwrites nothing."""
        return f"{self.prefix}/records-{digest}.parquet"

    def report_key(self, fence: int) -> str:
        """Return the key of the report of the attempt with this fence."""
        return f"{self.prefix}/report-{fence}.json"


def image_key(project: str, sha256: str) -> str:
    """Return the key of an image; each distinct image is stored once per project."""
    return f"{project}/images/{sha256}"


def get(session: Session, dataset_id: str, *, project: str) -> tuple[Dataset, Work] | None:
    """Return a data set and its work."""
    query = select(Dataset, Work).join(Work, col(Work.id) == Dataset.id)
    return session.exec(query.where(Dataset.id == dataset_id, Dataset.project == project)).first()


def page(session: Session, *, project: str, before: str | None, limit: int) -> list[tuple[Dataset, Work]]:
    """Return data sets, newest first, older than the id `before`."""
    query = select(Dataset, Work).join(Work, col(Work.id) == Dataset.id).where(Dataset.project == project)
    if before is not None:
        query = query.where(Dataset.id < before)
    return list(session.exec(query.order_by(col(Dataset.id).desc()).limit(limit)).all())


def record(session: Session, dataset_id: str, **values: Any) -> None:
    """Write what validation found."""
    session.execute(sa.update(Dataset).where(col(Dataset.id) == dataset_id).values(**values))
