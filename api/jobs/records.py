"""What is written down of a job's runs: its attempts, its checkpoints, its curve, its samples."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from api.documents import problems
from api.jobs import service
from api.jobs.log_pages import read_page
from api.jobs.schemas import MAX_SEQ, JobFailure, LogPage, read_item
from api.services import ProjectDep, ServicesDep
from core.errors import NotFound
from models import checkpoint as checkpoints
from models.checkpoint import Checkpoint
from models.event import Event
from models.states import AttemptOutcome, EventKind
from models.work import Attempt, attempts_of

router = APIRouter(prefix="/{job_id}", responses=problems(NotFound))


class RecordQuery(BaseModel):
    """Which part of a job's items is wanted."""

    model_config = ConfigDict(extra="forbid")

    after: int = Field(0, ge=0, le=MAX_SEQ, description="only items with a higher `seq`")
    limit: int = Field(1000, ge=1, le=1000)


class AttemptRead(BaseModel):
    """One try at a job, with its own end and its own part of the log."""

    number: int
    worker: str
    outcome: AttemptOutcome | None = Field(description="null while it runs")
    failure: JobFailure | None
    started_at: datetime
    ended_at: datetime | None
    resumed_step: int | None = Field(
        description="the step of the checkpoint that it went on from; null: the first step"
    )
    first_seq: int = Field(description="of its part of the log")
    last_seq: int | None


class AttemptList(BaseModel):
    """The attempts of a job, oldest first."""

    items: list[AttemptRead]


class CheckpointRead(BaseModel):
    """A verified checkpoint: the next attempt goes on from the newest."""

    id: str
    step: int
    attempt: int
    sha256: str = Field(description="of its manifest")
    size_bytes: int
    created_at: datetime


class CheckpointList(BaseModel):
    """The checkpoints of a job, the newest step first."""

    items: list[CheckpointRead]


class CurvePoint(BaseModel):
    """The figures of one step: of training, or of an evaluation."""

    seq: int
    at: datetime
    attempt: int
    step: int
    epoch: float | None
    figures: dict[str, float | int | None] = Field(description="by name: loss, learning_rate, eval_loss, …")


class CurvePage(BaseModel):
    """A part of a curve in the order of its steps; `next_cursor` is the `after` of the next page, or null."""

    items: list[CurvePoint]
    next_cursor: int | None


@router.get("/attempts")
def list_attempts(job_id: str, services: ServicesDep, project: ProjectDep) -> AttemptList:
    """List every attempt at a job, oldest first: how it ended, on which worker, where in the log."""
    with services.database.read() as session:
        service.find(session, job_id, project=project)
        return AttemptList(items=[_attempt(row) for row in attempts_of(session, job_id)])


@router.get("/checkpoints")
def list_checkpoints(job_id: str, services: ServicesDep, project: ProjectDep) -> CheckpointList:
    """List the checkpoints that a job can go on from, the newest first."""
    with services.database.read() as session:
        service.find(session, job_id, project=project)
        return CheckpointList(items=[_checkpoint(row) for row in checkpoints.of_job(session, job_id)])


@router.get("/metrics")
def get_curve(
    job_id: str, services: ServicesDep, project: ProjectDep, query: Annotated[RecordQuery, Query()]
) -> CurvePage:
    """Read a job's curve: every step once, over all attempts; a run that was given up is not in it."""
    with services.database.read() as session:
        job, _ = service.find(session, job_id, project=project)
    after = max(query.after, job.metrics_from_seq - 1)
    kinds = frozenset({EventKind.METRIC})
    items, next_cursor = read_page(services, job_id, after=after, limit=query.limit, kinds=kinds)
    return CurvePage(items=[_point(item) for item in items], next_cursor=next_cursor)


@router.get("/samples")
def list_samples(
    job_id: str, services: ServicesDep, project: ProjectDep, query: Annotated[RecordQuery, Query()]
) -> LogPage:
    """Read the answers that a job's evaluations wrote down, as items of its log."""
    with services.database.read() as session:
        service.find(session, job_id, project=project)
    kinds = frozenset({EventKind.SAMPLE})
    items, next_cursor = read_page(services, job_id, after=query.after, limit=query.limit, kinds=kinds)
    return LogPage(items=[read_item(item) for item in items], next_cursor=next_cursor)


def _attempt(row: Attempt) -> AttemptRead:
    return AttemptRead(
        **row.model_dump(include={"number", "outcome", "started_at", "ended_at", "resumed_step"}),
        **row.model_dump(include={"first_seq", "last_seq"}),
        worker=row.worker_id,
        failure=JobFailure.model_validate(row.failure) if row.failure else None,
    )


def _checkpoint(row: Checkpoint) -> CheckpointRead:
    return CheckpointRead(**row.model_dump(include=set(CheckpointRead.model_fields)))


def _point(item: Event) -> CurvePoint:
    figures: dict[str, Any] = dict(item.data or {})
    step, epoch = figures.pop("step", None), figures.pop("epoch", None)
    figures.pop("total_steps", None)  # the job's progress has it
    return CurvePoint(seq=item.seq, at=item.at, attempt=item.attempt, step=step or 0, epoch=epoch, figures=figures)
