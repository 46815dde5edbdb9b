"""What a job shows beside itself: its attempts, its checkpoints, its curve, its samples."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from api.documents import problems
from api.jobs import service
from api.jobs.schemas import MAX_SEQ, JobFailure, LogItem, LogPage, read_item
from api.services import ProjectDep, ServicesDep
from core.errors import NotFound
from models import checkpoint as checkpoints
from models import work as works
from models.states import AttemptOutcome, EventKind

After = Annotated[int, Query(ge=0, le=MAX_SEQ, description="only items with a higher `seq`")]
Many = Annotated[int, Query(ge=1, le=1000, description="how many items at most")]

router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"])


class AttemptRead(BaseModel):
    """One try at a job, with its own end and its own range of the log."""

    number: int
    outcome: AttemptOutcome | None = Field(description="null: under way")
    failure: JobFailure | None
    worker: str
    started_at: datetime
    ended_at: datetime | None
    resumed_step: int | None = Field(
        description="of the checkpoint that it went on from; null: it began at the first step"
    )
    first_seq: int
    last_seq: int | None


class AttemptList(BaseModel):
    """The attempts of a job, oldest first."""

    items: list[AttemptRead]


class CheckpointRead(BaseModel):
    """A stored checkpoint. It is used by the next attempt, and goes when newer ones are there, or the job succeeds."""

    id: str
    step: int
    attempt: int
    sha256: str
    size_bytes: int
    created_at: datetime


class CheckpointList(BaseModel):
    """The checkpoints of a job, newest first."""

    items: list[CheckpointRead]


class Point(BaseModel):
    """The figures of one step; those of a validation come as a point of their own."""

    seq: int
    at: datetime
    attempt: int
    step: int | None
    data: dict[str, Any]


class Curve(BaseModel):
    """A part of the curve; each step is in it once, however many attempts there were."""

    items: list[Point]
    next_cursor: int | None


@router.get("/attempts", responses=problems(NotFound))
def list_attempts(job_id: str, services: ServicesDep, project: ProjectDep) -> AttemptList:
    """List the attempts of a job, oldest first."""
    with services.database.read() as session:
        service.find(session, job_id, project=project)
        rows = works.attempts_of(session, job_id)
    return AttemptList(items=[_read_attempt(row) for row in rows])


@router.get("/checkpoints", responses=problems(NotFound))
def list_checkpoints(job_id: str, services: ServicesDep, project: ProjectDep) -> CheckpointList:
    """List the checkpoints that are stored now, newest first."""
    with services.database.read() as session:
        service.find(session, job_id, project=project)
        rows = checkpoints.of_job(session, job_id)
    return CheckpointList(items=[CheckpointRead(**row.model_dump(exclude={"project", "job_id"})) for row in rows])


@router.get("/metrics", responses=problems(NotFound))
def list_metrics(
    job_id: str, services: ServicesDep, project: ProjectDep, after: After = 0, limit: Many = 1000
) -> Curve:
    """Read the curve of a job in order. A run that began anew, on other hardware say, is shown from there on."""
    with services.database.read() as session:
        job, _ = service.find(session, job_id, project=project)
    after = max(after, job.metrics_from_seq - 1)
    page = _page(services, job_id, EventKind.METRIC, after=after, limit=limit)
    points = [
        Point(seq=item.seq, at=item.at, attempt=item.attempt, step=(item.data or {}).get("step"), data=item.data or {})
        for item in page.items
    ]
    return Curve(items=points, next_cursor=page.next_cursor)


@router.get("/samples", responses=problems(NotFound))
def list_samples(
    job_id: str, services: ServicesDep, project: ProjectDep, after: After = 0, limit: Many = 100
) -> LogPage:
    """Read what the model answered during the job, beside the references."""
    with services.database.read() as session:
        service.find(session, job_id, project=project)
    return _page(services, job_id, EventKind.SAMPLE, after=after, limit=limit)


def _page(services: ServicesDep, job_id: str, kind: EventKind, *, after: int, limit: int) -> LogPage:
    rows = services.history.page(job_id, after=after, limit=limit + 1, kinds=frozenset({kind})) or []
    shown: list[LogItem] = [read_item(row) for row in rows[:limit]]
    return LogPage(items=shown, next_cursor=shown[-1].seq if len(rows) > limit else None)


def _read_attempt(row: works.Attempt) -> AttemptRead:
    return AttemptRead(
        **row.model_dump(
            include={"number", "outcome", "started_at", "ended_at", "resumed_step", "first_seq", "last_seq"}
        ),
        failure=JobFailure.model_validate(row.failure) if row.failure else None,
        worker=row.worker_id,
    )
