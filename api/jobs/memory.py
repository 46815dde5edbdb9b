"""`GET /jobs/{id}/plan` and `GET /stats/memory`: what a run was to hold, and what it held."""

from statistics import fmean
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from api.documents import problems
from api.jobs import service
from api.services import ProjectDep, ServicesDep
from core.errors import NotFound
from core.events import Phase
from models import job as jobs
from models.job import Job

router = APIRouter(prefix="/{job_id}", responses=problems(NotFound))
stats = APIRouter(prefix="/stats", tags=["jobs"])


class PhaseMemory(BaseModel):
    """What one phase of a run holds at its largest moment, in bytes, the empty process included."""

    phase: Phase
    low: int
    expected: int
    high: int
    parts: dict[str, int] = Field(description="what `expected` is made of")
    measured: int | None = Field(description="what the phase held in the end; null until the job has finished")


class Peak(BaseModel):
    """The phase that holds the most, and how much."""

    phase: Phase
    low: int
    expected: int
    high: int


class Measured(BaseModel):
    """What a finished job held, in bytes."""

    peak: int
    process: int = Field(description="before the run began: the libraries")


class Seconds(BaseModel):
    """How long a run takes."""

    low: float
    expected: float
    high: float


class Duration(BaseModel):
    """What a run has to do, and how long that takes."""

    steps: int
    examples: int = Field(description="repeats included")
    tokens: int = Field(description="likewise, those of images included")
    operations: float = Field(description="of matrix products and attention")
    seconds: Seconds | None = Field(description="null where nobody knows how fast the device is")
    source: str = Field(description="where the seconds come from")


class MemoryPlan(BaseModel):
    """What a run holds, phase by phase and part by part, and how long it takes."""

    device: str = Field(description="that it is a plan for: cpu or cuda")
    place: str | None = Field(description="the device in words")
    based_on: str = Field(description="what is known of the rows: every row, or how the data set's sizes are spread")
    peak: Peak
    phases: list[PhaseMemory]
    disk: dict[str, int] = Field(description="bytes that the run leaves: features in the cache, checkpoints")
    host: dict[str, int] = Field(
        description="bytes of the machine's own memory that a run on a GPU takes; those of files can be taken back"
    )
    choices: list[str] = Field(description="what was chosen for memory's sake, each with what it gains")
    time: Duration | None
    source: str = Field(description="where the figures come from that cannot be counted")


class MemoryPlanRead(MemoryPlan):
    """The plan of a job, and what it held.

    `error` is (expected - measured) / measured of the peak above the empty process; null until the job has finished.
    """

    job: str
    measured: Measured | None
    error: float | None


class MemoryErrors(BaseModel):
    """How far plans lay off for jobs of one kind."""

    device: str
    base_model: str
    num_jobs: int
    mean_error: float = Field(description="of |expected - measured| / measured")
    worst_error: float
    bias: float = Field(description="mean of (expected - measured) / measured: above zero, too much was planned")


class MemoryStats(BaseModel):
    """Plans against what was measured, over the newest finished jobs."""

    num_jobs: int
    mean_error: float | None
    worst_error: float | None
    items: list[MemoryErrors]


@router.get("/plan")
def get_plan(job_id: str, services: ServicesDep, project: ProjectDep) -> MemoryPlanRead:
    """Show what a job holds in memory and how long it takes; beside it, once it has finished, what it held.

    The first plan is made with the job, from the sizes of its data set; the run makes it anew from every row.
    """
    with services.database.read() as session:
        job, _ = service.find(session, job_id, project=project)
    if job.plan is None:
        raise NotFound(
            f"Job {job_id} has no plan: what it holds could not be foreseen when it was made. Of a base whose memory is "
            "counted its run makes one when it has measured its rows."
        )
    return _read(job, job.plan)


@stats.get("/memory")
def get_memory_stats(
    services: ServicesDep,
    project: ProjectDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="how many of the newest finished jobs count")] = 200,
) -> MemoryStats:
    """Compare memory plans with what finished jobs held, by device and base model."""
    with services.database.read() as session:
        rows = jobs.measured(session, project=project, limit=limit)
    errors: dict[tuple[str, str], list[float]] = {}
    for job in rows:
        error = _error(job)
        if error is not None and job.plan is not None:
            errors.setdefault((job.plan["device"], job.base_model), []).append(error)
    every = [abs(error) for group in errors.values() for error in group]
    return MemoryStats(
        num_jobs=len(every),
        mean_error=fmean(every) if every else None,
        worst_error=max(every, default=None),
        items=[_errors(*kind, found) for kind, found in sorted(errors.items())],
    )


def _errors(device: str, base_model: str, found: list[float]) -> MemoryErrors:
    sizes = [abs(error) for error in found]
    return MemoryErrors(
        device=device,
        base_model=base_model,
        num_jobs=len(found),
        mean_error=fmean(sizes),
        worst_error=max(sizes),
        bias=fmean(found),
    )


def _read(job: Job, plan: dict[str, Any]) -> MemoryPlanRead:
    measured = job.measured
    return MemoryPlanRead(
        **read_plan(plan, None if measured is None else measured["peak_memory_by_phase"]).model_dump(),
        job=job.id,
        measured=measured and Measured(peak=measured["peak_memory_bytes"], process=measured["empty_memory_bytes"]),
        error=_error(job),
    )


def read_plan(plan: dict[str, Any], measured: dict[str, int] | None = None) -> MemoryPlan:
    """Return a plan as the API shows it, with what each phase held."""
    by_phase = measured or {}
    return MemoryPlan(
        device=plan["device"],
        place=plan.get("place"),
        based_on=plan.get("based_on", "every row"),  # plans made before there was another
        peak=Peak.model_validate(plan["peak"]),
        phases=[PhaseMemory(**phase, measured=by_phase.get(phase["phase"])) for phase in plan["phases"]],
        disk=plan["disk"],
        host=plan.get("host", {}),
        choices=plan.get("choices", []),
        time=plan.get("time"),
        source=plan["source"],
    )


def _error(job: Job) -> float | None:
    """Return how far the plan lay off, of what lay above the empty process."""
    if job.plan is None or job.measured is None:
        return None
    process = next(phase["parts"]["process"] for phase in job.plan["phases"])
    expected = job.plan["peak"]["expected"] - process
    held = job.measured["peak_memory_bytes"] - job.measured["empty_memory_bytes"]
    return float((expected - held) / held) if held > 0 else None
