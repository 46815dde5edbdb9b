"""What a user asks of a job: cancel, pause, resume, retry, delete. What its state does not allow is refused with what does."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import Session

from api.documents import problems
from api.jobs import service
from api.jobs.schemas import JobRead
from api.services import ProjectDep, ServicesDep
from core.errors import Conflict, NotFound
from core.http import JsonRoute
from core.queue import Queue
from models import checkpoint as checkpoints
from models import control, event
from models import dataset as datasets
from models import job as jobs
from models.checkpoint import Checkpoint
from models.job import Job
from models.removal import remove_below
from models.states import ACTIONS, FULFILLED, Action, WorkState, allowed_actions
from models.work import Work

_DONE = {
    Action.CANCEL: "cancelled",
    Action.PAUSE: "paused",
    Action.RESUME: "resumed",
    Action.RETRY: "retried",
    Action.DELETE: "deleted",
}

router = APIRouter(prefix="/{job_id}", route_class=JsonRoute)


class RetryRequest(BaseModel):
    """How a job is taken up again."""

    model_config = ConfigDict(extra="forbid")

    from_checkpoint: bool = Field(
        default=True, description="go on from the last checkpoint; false: forget them and begin at the first step"
    )


@router.post("/cancel", responses=problems(NotFound, Conflict))
def cancel_job(job_id: str, services: ServicesDep, project: ProjectDep) -> JobRead:
    """Ask for the end of a job: at once when it waits; a running one is asked, then SIGTERM, then SIGKILL."""
    with services.database.write() as session:
        return _act(session, job_id, Action.CANCEL, control.cancel, project=project)


@router.post("/pause", responses=problems(NotFound, Conflict))
def pause_job(job_id: str, services: ServicesDep, project: ProjectDep) -> JobRead:
    """Ask a running job to save and to free its device: it is `pausing`, then `paused`."""
    with services.database.write() as session:
        return _act(session, job_id, Action.PAUSE, control.pause, project=project)


@router.post("/resume", responses=problems(NotFound, Conflict))
def resume_job(job_id: str, services: ServicesDep, project: ProjectDep) -> JobRead:
    """Queue a paused job; it goes on from its last checkpoint."""
    with services.database.write() as session:
        read = _act(session, job_id, Action.RESUME, control.resume, project=project)
    services.doorbell.ring(Queue.GPU, job_id)
    return read


@router.post("/retry", responses=problems(NotFound, Conflict))
def retry_job(
    job_id: str,
    services: ServicesDep,
    project: ProjectDep,
    asked: Annotated[RetryRequest | None, Body()] = None,
) -> JobRead:
    """Queue a job that failed or was cancelled: the same id, a new attempt. To change anything, make one with `clone_of`."""
    from_checkpoint = asked is None or asked.from_checkpoint
    with services.database.write() as session:
        forgotten = _prepare_retry(session, job_id, from_checkpoint=from_checkpoint, project=project)
        read = _act(session, job_id, Action.RETRY, control.retry, project=project)
    for checkpoint in forgotten:
        remove_below(services.storage, checkpoint.prefix)
    services.doorbell.ring(Queue.GPU, job_id)
    return read


@router.delete("", status_code=204, responses=problems(NotFound, Conflict))
def delete_job(job_id: str, services: ServicesDep, project: ProjectDep) -> None:
    """Delete a job that has ended, its log and its checkpoints; its adapter stays. Deleted again it is not found."""
    with services.database.write() as session:
        _, work = service.hold(session, job_id, project=project)
        if Action.DELETE not in allowed_actions(work.state):
            raise _refused(job_id, work.state, Action.DELETE)
        jobs.delete(session, job_id)
        checkpoints.forget(session, checkpoints.of_job(session, job_id))
        event.forget(session, job_id)
    remove_below(services.storage, jobs.job_prefix(project, job_id))


def _act(
    session: Session, job_id: str, action: Action, act: Callable[[Session, str], object], *, project: str
) -> JobRead:
    """Do what was asked for; asking again for what is under way is no error."""
    _, work = service.hold(session, job_id, project=project)
    if work.state in ACTIONS[action]:
        moved = act(session, job_id)
        assert moved, "the row was held"
        session.expire_all()
    elif work.state not in FULFILLED[action]:
        raise _refused(job_id, work.state, action)
    return service.show(session, [service.find(session, job_id, project=project)])[0]


def _prepare_retry(session: Session, job_id: str, *, from_checkpoint: bool, project: str) -> Sequence[Checkpoint]:
    """Hold what the next attempt needs; return the checkpoints that were forgotten."""
    job, work = service.hold(session, job_id, project=project)
    has_ended = work.state in ACTIONS[Action.RETRY]
    if has_ended:
        _hold_dataset(session, job, work)
    if from_checkpoint:
        return ()
    kept = checkpoints.of_job(session, job_id)
    if has_ended:
        checkpoints.forget(session, kept)
        jobs.begin_anew(session, job_id)
        return kept
    if kept and work.state in FULFILLED[Action.RETRY]:
        raise Conflict(
            f"The job {job_id} is {work.state} already and goes on from its checkpoint of step {kept[0].step:,}. Cancel "
            "it, then retry it with from_checkpoint false.",
            **_facts(work.state),
        )
    return ()


def _hold_dataset(session: Session, job: Job, work: Work) -> None:
    if datasets.hold(session, job.dataset_id, project=job.project) is None:
        raise Conflict(
            f"The data set {job.dataset_id} of the job {job.id} was deleted, so it cannot be retried. Upload the data set "
            f'again and POST /jobs with {{"clone_of": "{job.id}", "dataset": "<its new id>"}}.',
            state=work.state.value,
            allowed=[action.value for action in allowed_actions(work.state) if action is not Action.RETRY],
        )


def _refused(job_id: str, state: WorkState, action: Action) -> Conflict:
    allowed = " or ".join(f"{choice}" for choice in allowed_actions(state))
    remedy = f"allowed now: {allowed}" if allowed else f"nothing is allowed now; wait until it is no longer {state}"
    return Conflict(f"The job {job_id} is {state} and cannot be {_DONE[action]}; {remedy}.", **_facts(state))


def _facts(state: WorkState) -> dict[str, Any]:
    return {"state": state.value, "allowed": [action.value for action in allowed_actions(state)]}
