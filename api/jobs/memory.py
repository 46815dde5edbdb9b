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


class MemoryPlanRead(BaseModel):
    """The memory of a job, phase by phase and part by part.

    `error` is (expected - measured) / measured of the peak above the empty process; null until the job has finished.
    """

    job: str
    device: str = Field(description="that it is a plan for: cpu or cuda")
    peak: Peak
    phases: list[PhaseMemory]
    disk: dict[str, int] = Field(description="bytes that the run leaves: features in the cache, checkpoints")
    source: str = Field(description="where the figures come from that cannot be counted")
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
    """Show what a job holds in memory; beside it, once it has finished, what it held. A job has a plan when it has loaded."""
    with services.database.read() as session:
        job, _ = service.find(session, job_id, project=project)
    if job.plan is None:
        raise NotFound(
            f"Job {job_id} has no memory plan yet; it is made when the job has loaded its base and measured its rows."
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
    by_phase = {} if measured is None else measured["peak_memory_by_phase"]
    return MemoryPlanRead(
        job=job.id,
        device=plan["device"],
        peak=Peak.model_validate(plan["peak"]),
        phases=[PhaseMemory(**phase, measured=by_phase.get(phase["phase"])) for phase in plan["phases"]],
        disk=plan["disk"],
        source=plan["source"],
        measured=measured and Measured(peak=measured["peak_memory_bytes"], process=measured["empty_memory_bytes"]),
        error=_error(job),
    )


def _error(job: Job) -> float | None:
    """Return how far the plan lay off, of what lay above the empty process."""
    if job.plan is None or job.measured is None:
        return None
    process = next(phase["parts"]["process"] for phase in job.plan["phases"])
    expected = job.plan["peak"]["expected"] - process
    held = job.measured["peak_memory_bytes"] - job.measured["empty_memory_bytes"]
    return float((expected - held) / held) if held > 0 else None
