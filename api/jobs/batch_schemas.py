"""What a batch of jobs looks like on the wire."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from math import isfinite
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.jobs.schemas import JobProgress, read_progress
from api.text import Name
from models.job import Batch, Job
from models.states import TERMINAL, WorkState
from models.work import Work

MAX_JOBS = 100
JUDGED_BY = "eval_loss"

DottedName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$", max_length=100)]
Values = Annotated[list[Any], Field(min_length=1, max_length=MAX_JOBS)]


class BatchCreate(BaseModel):
    """One job for every combination of the grid's values."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "job": {"base_model": "lensmith-demo", "dataset": "ds_01kav3"},
                    "grid": {"hyperparameters.learning_rate": [1e-4, 2e-4], "method.r": [8, 16]},
                }
            ]
        },
    )

    name: Name | None = None
    job: dict[str, Any] = Field(description="what POST /jobs takes; what the grid sets may be left out")
    grid: dict[DottedName, Values] = Field(
        min_length=1, description=f"the values of each field, by its dotted name; {MAX_JOBS} combinations at most"
    )


class BatchJob(BaseModel):
    """One job of a batch."""

    id: str
    name: str
    overrides: dict[str, Any] = Field(description="what it took of the grid")
    state: WorkState
    progress: JobProgress | None
    metrics: dict[str, float | int | None] | None = Field(description="the last figure of each name")
    adapter: str | None


class BatchSummary(BaseModel):
    """A batch and how its jobs stand."""

    id: str
    project: str
    name: str
    grid: dict[str, list[Any]]
    num_jobs: int = Field(description="that were not deleted")
    states: dict[WorkState, int] = Field(description="how many jobs stand in each state that has any")
    has_ended: bool = Field(description="nothing more happens by itself, and nothing is paused")
    created_at: datetime


class BatchRead(BatchSummary):
    """A batch with its jobs, in the order of the grid."""

    request: dict[str, Any] = Field(description="the job that all of them began with")
    best: str | None = Field(
        description=f"the job with the lowest {JUDGED_BY} so far; failed and cancelled ones do not count"
    )
    jobs: list[BatchJob]


def summarize(batch: Batch, states: Mapping[WorkState, int]) -> BatchSummary:
    """Return a batch without its jobs."""
    return BatchSummary(**_summary(batch, states))


def read_batch(batch: Batch, rows: Sequence[tuple[Job, Work]], *, adapters: Mapping[str, str]) -> BatchRead:
    """Return a batch with its jobs; `adapters`: of those that have one."""
    states: dict[WorkState, int] = {}
    for _, work in rows:
        states[work.state] = states.get(work.state, 0) + 1
    return BatchRead(
        **_summary(batch, states),
        request=batch.request,
        best=_best(rows),
        jobs=[_read_job(job, work, adapter=adapters.get(job.id)) for job, work in rows],
    )


def _summary(batch: Batch, states: Mapping[WorkState, int]) -> dict[str, Any]:
    return batch.model_dump(include={"id", "project", "name", "grid", "created_at"}) | {
        "num_jobs": sum(states.values()),
        "states": dict(sorted(states.items())),
        "has_ended": states.keys() <= TERMINAL,
    }


def _read_job(job: Job, work: Work, *, adapter: str | None) -> BatchJob:
    return BatchJob(
        **job.model_dump(include={"id", "name", "metrics"}),
        overrides=job.overrides or {},
        state=work.state,
        progress=read_progress(job),
        adapter=adapter,
    )


def _best(rows: Sequence[tuple[Job, Work]]) -> str | None:
    lost = {WorkState.FAILED, WorkState.CANCELLED}
    judged = [(job.metrics or {}).get(JUDGED_BY) for job, _ in rows]
    candidates = [
        (loss, job.id)
        for loss, (job, work) in zip(judged, rows, strict=True)
        if loss is not None and isfinite(loss) and work.state not in lost
    ]
    return min(candidates)[1] if candidates else None
