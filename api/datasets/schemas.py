"""What a data set looks like on the wire."""

from datetime import datetime

from pydantic import BaseModel, Field

from core.errors import FailureCode
from ingest.origins import shown_source
from ingest.skipped import OnBadRow
from models.dataset import Dataset
from models.states import DatasetState, dataset_state
from models.work import Work
from vlm.image_options import ImageOptions


class DatasetFailure(BaseModel):
    """Why a data set was refused; the report has every issue."""

    code: FailureCode
    detail: str
    remedy: str
    retryable: bool


class DatasetProgress(BaseModel):
    """How far the validation is, in rows."""

    step: int
    total_steps: int | None


class DatasetRead(BaseModel):
    """A data set as it stands."""

    id: str
    project: str
    name: str
    state: DatasetState
    failure: DatasetFailure | None
    filename: str
    source: str | None = Field(
        description="where the file was fetched, without a signature; of the Hub with the commit that was read; uploaded: null"
    )
    container: str | None = Field(description="like size_bytes and sha256, null until a source was fetched")
    size_bytes: int | None = Field(description="of the file as it was uploaded or fetched")
    sha256: str | None = Field(description="of the file as it was uploaded or fetched")
    columns: dict[str, str] | None = Field(description="fields to the names that the upload gives them")
    on_bad_row: OnBadRow
    base_model: str | None = Field(description="for which the rows are measured")
    image: ImageOptions | None = Field(description="how images are cut for that; without a base model null")
    digest: str | None = Field(description="of the content, independent of how it was packed")
    num_examples: int | None
    num_images: int | None = Field(description="distinct images")
    num_issues: int | None
    num_skipped: int | None = Field(description="rows that were left out; the report lists every one")
    splits: dict[str, int] | None
    progress: DatasetProgress | None
    created_at: datetime
    finished_at: datetime | None


def read_dataset(dataset: Dataset, work: Work) -> DatasetRead:
    """Return a data set's rows as the API shows them."""
    return DatasetRead(
        **dataset.model_dump(include=_SAME_NAMES),
        state=dataset_state(work.state),
        failure=DatasetFailure.model_validate(work.failure) if work.failure else None,
        source=dataset.source and shown_source(dataset.source),
        size_bytes=dataset.upload_bytes,
        sha256=dataset.upload_sha256,
        progress=DatasetProgress.model_validate(dataset.progress) if dataset.progress else None,
        finished_at=work.finished_at,
    )


_SAME_NAMES = {
    "id",
    "project",
    "name",
    "filename",
    "container",
    "columns",
    "on_bad_row",
    "base_model",
    "image",
    "digest",
    "num_examples",
    "num_images",
    "num_issues",
    "num_skipped",
    "splits",
    "created_at",
}
