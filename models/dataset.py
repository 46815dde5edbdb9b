"""Data sets: what was uploaded, and what validation made of it."""

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, Session, SQLModel, col, select
from sqlmodel.sql.expression import Select

from core.clock import utc_now
from core.db import UtcDateTime
from models.states import WorkState
from models.work import DEFAULT_PROJECT, Work


class Dataset(SQLModel, table=True):
    """One data set. Its state is its work's (`models.states.dataset_state`)."""

    __tablename__ = "dataset"

    id: str = Field(foreign_key="work.id", primary_key=True, max_length=64, ondelete="CASCADE")
    project: str = Field(default=DEFAULT_PROJECT, max_length=64, index=True)
    name: str = Field(max_length=200)
    filename: str = Field(max_length=255)
    source: str | None = Field(default=None, max_length=2048, description="where a worker fetches it; uploaded: null")
    container: str | None = Field(default=None, max_length=16, description="like the two below, null until fetched")
    upload_sha256: str | None = Field(default=None, max_length=64)
    upload_bytes: int | None = Field(default=None, sa_type=sa.BigInteger)
    columns: dict[str, str] | None = Field(default=None, sa_type=sa.JSON, description="fields to the upload's names")
    on_bad_row: str = Field(default="fail", max_length=16)
    base_model: str | None = Field(default=None, max_length=500, description="the rows are measured for it")
    image: dict[str, Any] | None = Field(
        default=None, sa_type=sa.JSON, description="how images are cut for it; without a base null"
    )
    digest: str | None = Field(default=None, max_length=64)
    num_examples: int | None = None
    num_issues: int | None = None
    num_skipped: int | None = None
    num_images: int | None = None
    splits: dict[str, int] | None = Field(default=None, sa_type=sa.JSON)
    report_fence: int | None = Field(default=None, description="the attempt whose report counts; none yet: null")
    progress: dict[str, Any] | None = Field(default=None, sa_type=sa.JSON)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    deleted_at: datetime | None = Field(
        default=None,
        sa_type=UtcDateTime,
        description="hidden since then; the row stays for the jobs that learned from it",
    )

    @property
    def prefix(self) -> str:
        """Return the prefix of this data set's objects."""
        return _prefix(self.project, self.id)

    @property
    def upload_key(self) -> str:
        """Return the key of the file as it was uploaded, or as it was fetched: then its digest is in it."""
        return upload_key(self.project, self.id) if self.source is None else self.fetched_key(self.upload_sha256)

    @property
    def has_report(self) -> bool:
        """Tell whether a validation came to an end and said what it found."""
        return self.report_fence is not None

    def fetched_key(self, sha256: str | None) -> str:
        """Return the key of a fetched file; two workers that fetched different bytes do not overwrite each other's."""
        assert sha256 is not None
        return f"{self.prefix}/upload-{sha256}"

    def records_key(self, digest: str) -> str:
        """Return the key of the canonical table; its digest is in it, so a late worker overwrites nothing."""
        return f"{self.prefix}/records-{digest}.parquet"

    def report_key(self, fence: int) -> str:
        """Return the key of the report of the attempt with this fence."""
        return f"{self.prefix}/report-{fence}.json"


class DatasetSizes(SQLModel, table=True):
    """How large the examples of a data set are (`vlm.size_histogram`): apart, because only who plans a job reads it."""

    __tablename__ = "dataset_sizes"

    dataset_id: str = Field(foreign_key="dataset.id", primary_key=True, max_length=64, ondelete="CASCADE")
    sizes: dict[str, Any] = Field(sa_type=sa.JSON)


def upload_key(project: str, dataset_id: str) -> str:
    """Return the key of the file of a data set that was uploaded."""
    return f"{_prefix(project, dataset_id)}/upload"


def _prefix(project: str, dataset_id: str) -> str:
    return f"{project}/datasets/{dataset_id}"


def images_prefix(project: str) -> str:
    """Return the prefix of a project's images."""
    return f"{project}/images"


def image_key(project: str, sha256: str) -> str:
    """Return the key of an image; each distinct image is stored once per project."""
    return f"{images_prefix(project)}/{sha256}"


def get(session: Session, dataset_id: str, *, project: str) -> tuple[Dataset, Work] | None:
    """Return a data set and its work."""
    return session.exec(_shown(project).where(Dataset.id == dataset_id)).first()


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a new job takes of its data set."""

    id: str
    name: str
    digest: str | None
    splits: dict[str, int] | None
    has_report: bool
    state: WorkState
    failure: dict[str, Any] | None


def hold(session: Session, dataset_id: str, *, project: str) -> Held | None:
    """Return a data set, with its row held until the transaction ends, together with others that hold it.

    Who names it in a new row holds it; who deletes it holds it alone. So a job and a deletion at the same moment see
    each other: the second waits, then reads what the first has committed. (On SQLite a writing transaction is alone
    anyway.)
    """
    found = session.connection().execute(_held(), {"project": project, "id": dataset_id}).first()
    return None if found is None else Held(**found._asdict())


def hold_alone(session: Session, dataset_id: str, *, project: str) -> tuple[Dataset, Work] | None:
    """Return a data set's rows, with that of the data set held until the transaction ends, from everybody else."""
    return session.exec(_shown(project).where(Dataset.id == dataset_id).with_for_update(of=Dataset)).first()


@cache
def _held() -> sa.Select[Any]:
    """Made once, and of columns: to put it together, and to make rows of what it finds, takes longer than to run it."""
    columns = (col(Dataset.id), col(Dataset.name), col(Dataset.digest), col(Dataset.splits), col(Work.state))
    query = sa.select(*columns, col(Work.failure), col(Dataset.report_fence).is_not(None).label("has_report"))
    query = query.join(Work, col(Work.id) == Dataset.id).where(
        col(Dataset.project) == sa.bindparam("project", type_=sa.String),
        col(Dataset.id) == sa.bindparam("id", type_=sa.String),
        col(Dataset.deleted_at).is_(None),
    )
    return query.with_for_update(of=Dataset, read=True, key_share=True)


def page(session: Session, *, project: str, before: str | None, limit: int) -> list[tuple[Dataset, Work]]:
    """Return data sets, newest first, older than the id `before`."""
    query = _shown(project)
    if before is not None:
        query = query.where(Dataset.id < before)
    return list(session.exec(query.order_by(col(Dataset.id).desc()).limit(limit)).all())


def record(session: Session, dataset_id: str, **values: Any) -> None:
    """Write what validation found."""
    session.execute(sa.update(Dataset).where(col(Dataset.id) == dataset_id).values(**values))


def record_sizes(session: Session, dataset_id: str, sizes: dict[str, Any]) -> None:
    """Write how large its examples are, in place of what was known."""
    session.merge(DatasetSizes(dataset_id=dataset_id, sizes=sizes))


def sizes_of(session: Session, dataset_id: str) -> dict[str, Any] | None:
    """Return how large its examples are; None of one that was validated before anybody counted."""
    found = session.get(DatasetSizes, dataset_id)
    return None if found is None else found.sizes


def delete(session: Session, dataset_id: str) -> None:
    """Hide a data set from everything that looks for one; what a job recorded of it stays readable."""
    record(session, dataset_id, deleted_at=utc_now())


def _shown(project: str) -> Select[Dataset, Work]:
    query = select(Dataset, Work).join(Work, col(Work.id) == Dataset.id)
    return query.where(col(Dataset.project) == project, col(Dataset.deleted_at).is_(None))
