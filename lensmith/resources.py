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
    base_model: str | None = None
    splits: dict[str, int] | None
    created_at: datetime


class UploadPart(BaseModel):
    """A part of an upload that is there."""

    model_config = ConfigDict(extra="allow", frozen=True)

    number: int
    size_bytes: int
    sha256: str


class Upload(Resource):
    """A large file on its way, in parts."""

    state: str
    filename: str
    size_bytes: int
    part_bytes: int
    num_parts: int
    received_bytes: int
    parts: tuple[UploadPart, ...]
    dataset: str | None
    created_at: datetime
    expires_at: datetime


class Example(BaseModel):
    """One row of a data set: its turns, its pictures, and the issues that the report lists for it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    row: int
    file: str | None
    split: str
    num_answer_chars: int
    messages: list[dict[str, Any]]
    images: list[dict[str, Any]]
    issues: list[dict[str, Any]]


class _Value(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class PreviewToken(_Value):
    """A token as the model reads it; `count` of them, when image features follow each other."""

    id: int
    text: str
    learned: bool
    count: int


class PreviewTile(_Value):
    """A tile: its place in the grid (`row` and `column` from 1; None: the whole image), and a data: URL to look at."""

    place: dict[str, int] | None
    url: str


class PreviewImage(_Value):
    """What an image becomes; 0 rows: it is not cut."""

    width_px: int
    height_px: int
    rows: int
    columns: int
    num_tiles: int
    num_tokens: int
    tiles: tuple[PreviewTile, ...]


class Preview(_Value):
    """What a base model sees of one row of a data set."""

    dataset: str
    base_model: str
    row: int
    split: str
    file: str | None
    text: str
    tokens: tuple[PreviewToken, ...]
    num_tokens: int
    num_image_tokens: int
    num_learned_tokens: int
    context_tokens: int
    fits: bool
    refusal: str | None
    images: tuple[PreviewImage, ...]
    is_shortened: bool


class Job(Resource):
    """A job."""

    name: str
    state: str
    phase: str | None
    base_model: str
    dataset: str
    clone_of: str | None = None
    batch: str | None = None
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


class PhaseMemory(_Value):
    """What one phase of a job holds at its largest moment, in bytes: a range, the parts, and what it was in the end."""

    phase: str
    low: int
    expected: int
    high: int
    parts: dict[str, int]
    measured: int | None


class Seconds(_Value):
    """How long a run takes."""

    low: float
    expected: float
    high: float


class Duration(_Value):
    """What a run has to do; `seconds` is None where nobody knows how fast the device is."""

    steps: int
    examples: int
    tokens: int
    operations: float
    seconds: Seconds | None
    source: str


class Foresight(_Value):
    """What a run holds and how long it takes; `choices` are what was chosen for memory's sake."""

    device: str
    place: str | None
    based_on: str
    peak: dict[str, Any]
    phases: tuple[PhaseMemory, ...]
    disk: dict[str, int]
    host: dict[str, int]
    choices: tuple[str, ...]
    time: Duration | None


class MemoryPlan(Foresight):
    """The plan of a job; `error` is that of its peak, as a share of what was measured."""

    measured: dict[str, int] | None
    error: float | None


class DryRun(Foresight):
    """A job that was not made. Budgets are in 10^9 bytes; `smallest_gb` is the smallest that is enough."""

    fits: bool
    budget_gb: float | None
    smallest_gb: float
    settings: dict[str, Any]


class Attempt(_Value):
    """One try at a job, with its own end."""

    number: int
    worker: str
    outcome: str | None
    failure: Failure | None
    started_at: datetime
    ended_at: datetime | None
    resumed_step: int | None
    first_seq: int
    last_seq: int | None


class Checkpoint(Resource):
    """A checkpoint that a job can go on from."""

    step: int
    attempt: int
    sha256: str
    size_bytes: int
    created_at: datetime


class CurvePoint(_Value):
    """The figures of one step."""

    seq: int
    at: datetime
    attempt: int
    step: int
    epoch: float | None
    figures: dict[str, float | int | None]


class BatchJob(Resource):
    """One job of a batch, and what it took of the grid."""

    name: str
    overrides: dict[str, Any]
    state: str
    progress: dict[str, Any] | None
    metrics: dict[str, Any] | None
    adapter: str | None


class Batch(Resource):
    """Jobs that were made together; in a list without them."""

    name: str
    grid: dict[str, list[Any]]
    num_jobs: int
    states: dict[str, int]
    has_ended: bool
    created_at: datetime
    best: str | None = None
    jobs: tuple[BatchJob, ...] = ()


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
