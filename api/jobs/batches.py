"""Batches: one request and a grid of overrides become many jobs, which one parent shows."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlmodel import Session

from api.idempotency import Answer
from api.jobs import making
from api.jobs.schemas import JobCreate, JobProgress, read_progress
from api.text import Name, is_id
from core.errors import Invalid, NotFound
from core.ids import Prefix, new_id
from models import adapter as adapters
from models import job as jobs
from models.job import Batch, Job
from models.states import TERMINAL, WorkState
from models.work import Work

MAX_JOBS = 100
_OF_THE_GRID = frozenset(JobCreate.model_fields) - {"name", "metadata", "clone_of"}
_BEST_BY = "eval_loss"

Values = Annotated[list[Any], Field(min_length=1, max_length=MAX_JOBS)]


class BatchCreate(BaseModel):
    """Jobs that differ in what the grid says: one for each combination of its values."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    job: JobCreate = Field(description="what the jobs have in common")
    grid: dict[str, Values] = Field(
        min_length=1,
        max_length=8,
        description="dotted names of the job's fields, each with its values",
        examples=[{"hyperparameters.learning_rate": [1e-4, 2e-4], "method.r": [8, 16]}],
    )


class BatchJob(BaseModel):
    """One job of a batch."""

    id: str
    name: str
    state: WorkState
    overrides: dict[str, Any]
    progress: JobProgress | None
    metrics: dict[str, float | int | None] | None
    adapter: str | None


class BatchRead(BaseModel):
    """A batch as it stands: its jobs, and how many of them are in each state."""

    id: str
    project: str
    name: str
    grid: dict[str, list[Any]]
    created_at: datetime
    num_jobs: int
    states: dict[WorkState, int]
    is_ended: bool
    best: str | None = Field(description="the job that succeeded with the lowest eval_loss")
    jobs: list[BatchJob]


def create(session: Session, body: BatchCreate, *, project: str) -> Answer:
    """Write a batch and its jobs, or nothing."""
    template = making.completed(session, body.job, project=project)
    common = template.model_dump(mode="json", by_alias=True, exclude_unset=True)
    requests = [(overrides, _request(common, overrides)) for overrides in combinations(body.grid)]
    batch = Batch(
        id=new_id(Prefix.BATCH), project=project, name=body.name or template.name or "", request=common, grid=body.grid
    )
    session.add(batch)
    session.flush()
    made = []
    for overrides, request in requests:
        job, work = making.make_job(session, request, project=project, batch_id=batch.id, overrides=overrides)
        made.append((job, work))
    if not batch.name:
        batch.name = made[0][0].name
    return Answer(
        status=202,
        body=show(session, batch, made).model_dump(mode="json"),
        location=f"/jobs/batch/{batch.id}",
    )


def combinations(grid: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of a grid, the last name changing fastest."""
    count = math.prod(map(len, grid.values()))
    if count > MAX_JOBS:
        raise Invalid.field("#/grid", f"The grid makes {count:,} jobs; a batch has at most {MAX_JOBS}.")
    for name in grid:
        if name.partition(".")[0] not in _OF_THE_GRID:
            raise Invalid.field(
                f"#/grid/{name}", f"{name!r} is no field of a job; fields are {', '.join(sorted(_OF_THE_GRID))}."
            )
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def find(session: Session, batch_id: str, *, project: str) -> tuple[Batch, list[tuple[Job, Work]]]:
    """Return a batch and its jobs, or refuse with 404."""
    batch = jobs.get_batch(session, batch_id, project=project) if is_id(batch_id) else None
    if batch is None:
        raise NotFound(f"There is no batch {batch_id!r}.")
    return batch, jobs.of_batch(session, batch_id)


def show(session: Session, batch: Batch, rows: Sequence[tuple[Job, Work]]) -> BatchRead:
    """Return a batch as the API shows it."""
    made = adapters.of_jobs(session, [job.id for job, _ in rows])
    states = Counter(work.state for _, work in rows)
    return BatchRead(
        **batch.model_dump(include={"id", "project", "name", "grid", "created_at"}),
        num_jobs=len(rows),
        states=dict(states),
        is_ended=all(state in TERMINAL for state in states),
        best=_best(rows),
        jobs=[
            BatchJob(
                **job.model_dump(include={"id", "name", "metrics"}),
                state=work.state,
                overrides=job.overrides or {},
                progress=read_progress(job),
                adapter=made.get(job.id),
            )
            for job, work in rows
        ],
    )


def _request(common: dict[str, Any], overrides: dict[str, Any]) -> JobCreate:
    """Return one job of the grid; a value that a job may not have is told by its name."""
    document = common
    for name, value in overrides.items():
        document = making.laid_over(document, _nested(name.split("."), value))
    said = ", ".join(f"{name.rpartition('.')[2]}={value}" for name, value in overrides.items())
    if common.get("name"):
        document["name"] = f"{common['name'][: max(0, 198 - len(said))]} {said}"[:200]
    try:
        return JobCreate.model_validate(document)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        name = next(
            (name for name in overrides if place.startswith(name) or name.startswith(place)), next(iter(overrides))
        )
        raise Invalid.field(
            f"#/grid/{name}", f"The job with {said} is wrong at {place or name}: {fault['msg']}"
        ) from error


def _nested(path: list[str], value: Any) -> dict[str, Any]:
    return {path[0]: _nested(path[1:], value) if len(path) > 1 else value}


def _best(rows: Sequence[tuple[Job, Work]]) -> str | None:
    scored = [
        (job.metrics[_BEST_BY], job.id)
        for job, work in rows
        if work.state is WorkState.SUCCEEDED and job.metrics and job.metrics.get(_BEST_BY) is not None
    ]
    return min(scored)[1] if scored else None
