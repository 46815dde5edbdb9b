"""What the server answers, as typed values. Fields that this version does not know are kept (`model_extra`)."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

ENDED = frozenset({"succeeded", "failed", "cancelled"})


class Resource(BaseModel):
    """Anything with an id."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    id: str


class Failure(BaseModel):
    """Why something failed, and the remedy."""

    model_config = ConfigDict(extra="allow", frozen=True)

    code: str
    detail: str
    remedy: str
    retryable: bool


class Dataset(Resource):
    """A data set."""

    name: str
    state: str
    failure: Failure | None
    digest: str | None
    num_examples: int | None
    num_issues: int | None
    num_skipped: int | None = None
    splits: dict[str, int] | None
    created_at: datetime


class Job(Resource):
    """A job."""

    name: str
    state: str
    phase: str | None
    base_model: str
    dataset: str
    progress: dict[str, Any] | None
    metrics: dict[str, Any] | None
    attempt: int
    adapter: str | None
    failure: Failure | None
    peak_memory_bytes: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def has_ended(self) -> bool:
        """Tell whether nothing more will happen by itself."""
        return self.state in ENDED


class LogItem(BaseModel):
    """One item of a job's log."""

    model_config = ConfigDict(extra="allow", frozen=True)

    seq: int
    at: datetime
    kind: str
    level: str | None
    message: str | None
    data: dict[str, Any] | None


class Adapter(Resource):
    """An adapter."""

    project: str
    name: str
    state: str
    base_model: str
    job: str
    sha256: str
    size_bytes: int
    metrics: dict[str, Any] | None
    created_at: datetime


class Answer(Resource):
    """What a model said about a picture."""

    model: str
    adapter: str | None
    text: str
    usage: dict[str, int]
    timings: dict[str, Any]
    finish_reason: str
