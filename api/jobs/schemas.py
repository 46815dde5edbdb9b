"""What a job looks like on the wire."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag, model_validator

from api.base_models.names import BASE_NAMES, BaseName
from api.jobs.estimates import Expectation
from api.text import Name, Plain
from core.errors import FailureCode
from core.events import Phase
from models.event import Event
from models.job import Job
from models.states import EventKind, WorkState
from models.work import Work
from training.resources import Resources
from training.spec import Auto, Hyperparameters, Method, Optimizer, Scheduler, check_sharing
from vlm.image_options import ImageOptions
from vlm.precision import Precision

MAX_SEQ = 2**31 - 1

Label = Annotated[Plain, StringConstraints(min_length=1, max_length=64)]
Value = Annotated[Plain, StringConstraints(max_length=512)]


class JobCreate(BaseModel):
    """A fine-tuning job. Everything but the base model and the data set has a default; `"auto"` is resolved and shown."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "base_model": "lensmith-demo",
                    "dataset": "ds_01kav3",
                    "name": "digits",
                    "method": {"type": "qlora", "r": 8},
                    "hyperparameters": {"epochs": 1, "learning_rate": 1e-3, "batch_size": 16},
                }
            ]
        },
    )

    base_model: BaseName = Field(description=BASE_NAMES)
    dataset: Plain = Field(max_length=64, description="a data set that is ready")
    name: Name | None = None
    seed: int = Field(0, ge=0, le=2**31 - 1)
    method: Method = Method()
    hyperparameters: Hyperparameters = Hyperparameters()
    image: ImageOptions = ImageOptions()
    resources: Resources = Resources()
    allow_quality_tradeoff: bool = Field(
        default=False,
        description="where memory is short after everything else, scale pictures down to fewer tiles; the model sees less "
        "of each",
    )
    priority: int = Field(0, ge=-100, le=100, description="higher is claimed first")
    metadata: dict[Label, Value] = Field(default_factory=dict, max_length=16)

    @model_validator(mode="after")
    def _shardable(self) -> Self:
        check_sharing(self.method, self.resources)
        return self


class JobClone(BaseModel):
    """A job like another one. What stands here is laid over what that was made with, and then read as any other job."""

    model_config = ConfigDict(extra="forbid")

    clone_of: Plain = Field(max_length=64, description="the job to begin with")
    base_model: Any = Field(None, description=BASE_NAMES)
    dataset: Any = Field(None, description="a data set that is ready")
    name: Any = Field(None, description="left out: the name of that job")
    seed: Any = None
    method: dict[str, Any] | None = None
    hyperparameters: dict[str, Any] | None = Field(
        None, description="to change from epochs to max_steps, give the other one as auto"
    )
    image: dict[str, Any] | None = None
    resources: dict[str, Any] | None = None
    allow_quality_tradeoff: Any = None
    priority: Any = None
    metadata: dict[str, Any] | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """Return what the caller set."""
        return self.model_dump(exclude={"clone_of"}, exclude_unset=True)


def _kind_of_body(body: Any) -> str:
    is_clone = "clone_of" in body if isinstance(body, dict) else isinstance(body, JobClone)
    return "clone" if is_clone else "new"


JobBody = Annotated[Annotated[JobCreate, Tag("new")] | Annotated[JobClone, Tag("clone")], Discriminator(_kind_of_body)]


class JobProgress(BaseModel):
    """How far a running job is."""

    step: int | None
    total_steps: int | None
    epoch: float | None
    examples_per_s: float | None
    eta_s: float | None


class JobFailure(BaseModel):
    """Why a job failed, and what to do about it."""

    code: FailureCode
    detail: str
    remedy: str
    retryable: bool


class JobHyperparameters(BaseModel):
    """What was asked, and once the run has settled it what it came to: none of the rules of a request hold here."""

    epochs: float | Auto
    max_steps: int | Auto
    learning_rate: float | Auto
    batch_size: int | Auto
    micro_batch_size: int | Auto
    micro_batch_tokens: int | Auto | None = Field(description="null: a forward pass is bounded in examples only")
    packing: bool | Auto
    feature_cache: bool | Auto
    warmup_ratio: float | Auto
    weight_decay: float | Auto
    max_grad_norm: float | Auto
    lr_scheduler: Scheduler | Auto
    optimizer: Optimizer | Auto
    loraplus_lr_ratio: float | Auto
    neftune_alpha: float | Auto
    gradient_checkpointing: bool | Literal["selective"] | Auto
    activation_offload: bool | Auto
    compact_memory: bool | Auto
    precision: Precision | Auto
    checkpoint_every: int | Auto


class JobRead(BaseModel):
    """A job as it stands."""

    id: str
    project: str
    name: str
    state: WorkState
    phase: Phase | None
    base_model: str
    dataset: str
    dataset_digest: str
    clone_of: str | None = Field(description="the job whose request this one began with")
    batch: str | None = Field(description="the batch that it was made in")
    seed: int
    method: Method
    hyperparameters: JobHyperparameters
    image: ImageOptions
    resources: Resources
    allow_quality_tradeoff: bool
    settings: dict[str, Any] | None = Field(description="the resolved values, null until the job has loaded")
    provenance: dict[str, Any] | None
    priority: int
    progress: JobProgress | None
    metrics: dict[str, float | int | None] | None = Field(description="the last figure of each name")
    attempt: int
    adapter: str | None
    failure: JobFailure | None
    plan: dict[str, Any] | None = Field(
        description="the peak of the memory plan, in bytes; null where none could be made; GET /jobs/{id}/plan has all of it"
    )
    peak_memory_bytes: int | None
    metadata: dict[str, str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    queue_position: int | None = Field(
        description="1: the next that is claimed; right after the submission by priority and age, then by fair shares as well"
    )
    estimated_start: datetime | None = Field(description="null where the length of what runs before is not known")
    estimated_finish: datetime | None
    waiting_for: str | None = Field(description="what must change before any worker takes the job; null: its turn")


class LogQuery(BaseModel):
    """What of a log is wanted."""

    model_config = ConfigDict(extra="forbid")

    after: int = Field(0, ge=0, le=MAX_SEQ, description="only items with a higher `seq`")
    limit: int = Field(100, ge=1, le=1000, description="of a page; a stream has no limit")
    kind: str | None = Field(None, description="comma-separated: log, metric, event, sample, checkpoint")
    follow: bool = Field(default=False, description="stream as SSE whatever `Accept` says")


class LogItem(BaseModel):
    """One item of a job's log. `seq` counts from 1 without gaps."""

    seq: int
    at: datetime
    kind: EventKind
    attempt: int
    level: str | None
    message: str | None
    data: dict[str, Any] | None


class LogPage(BaseModel):
    """A part of a log; `next_cursor` is the `after` of the next page, null when there is no more yet."""

    items: list[LogItem]
    next_cursor: int | None


def read_job(job: Job, work: Work, *, adapter: str | None, expected: Expectation) -> JobRead:
    """Return a job's rows as the API shows them."""
    return JobRead(
        **job.model_dump(include={"id", "project", "name", "base_model", "dataset_digest", "seed", "settings"}),
        **job.model_dump(include={"clone_of", "provenance", "metrics", "peak_memory_bytes", "created_at"}),
        **work.model_dump(include={"state", "phase", "priority", "attempt", "started_at", "finished_at"}),
        dataset=job.dataset_id,
        batch=job.batch_id,
        method=Method.model_validate(job.request["method"]),
        hyperparameters=show_hyperparameters(
            job.request["hyperparameters"], (job.settings or {}).get("hyperparameters", {})
        ),
        image=ImageOptions.model_validate(job.request["image"]),
        resources=Resources.model_validate(job.request.get("resources", {})),  # jobs made before there was a choice
        allow_quality_tradeoff=job.request.get("allow_quality_tradeoff", False),
        progress=read_progress(job),
        adapter=adapter,
        failure=JobFailure.model_validate(work.failure) if work.failure else None,
        plan=job.plan and job.plan["peak"],
        metadata=job.labels,
        **asdict(expected),
    )


def read_item(event: Event) -> LogItem:
    """Return a log item as the API shows it."""
    return LogItem(**event.model_dump(exclude={"work_id", "project"}))


def show_hyperparameters(asked: dict[str, Any], settled: dict[str, Any]) -> JobHyperparameters:
    """Return what each hyperparameter came to, or what was asked as long as the run has not settled it."""
    whole = Hyperparameters.model_validate(asked).model_dump()  # jobs made before there was a choice name fewer
    in_steps = whole["max_steps"] != "auto"  # then the epochs that these are were not asked for
    return JobHyperparameters.model_validate(
        {name: value if in_steps and name == "epochs" else settled.get(name, value) for name, value in whole.items()}
    )


def read_progress(job: Job) -> JobProgress | None:
    """Return how far a job is; None when its run has told nothing yet."""
    if job.progress is None:
        return None
    return JobProgress.model_validate({name: job.progress.get(name) for name in JobProgress.model_fields})
