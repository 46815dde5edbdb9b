"""What users ask of a job: cancel, pause, resume, retry, delete; each in one transaction."""

from collections.abc import Callable

from sqlmodel import Session

from api.jobs import service
from api.jobs.schemas import JobRead, Retry
from core.clock import utc_now
from core.errors import Conflict, WorkFailed
from core.logs import get_logger
from core.storage import Storage
from models import checkpoint as checkpoints
from models import control
from models import dataset as datasets
from models import job as jobs
from models.checkpoint import Checkpoint
from models.job import Job
from models.states import Action, WorkState, allowed_actions
from models.work import Work

_ASKS: dict[Action, Callable[[Session, str], object]] = {
    Action.CANCEL: control.cancel,
    Action.PAUSE: control.pause,
    Action.RESUME: control.resume,
    Action.RETRY: control.retry,
}
# Where the action was asked for already: to ask again is no error.
_UNDER_WAY: dict[Action, frozenset[WorkState]] = {
    Action.CANCEL: frozenset({WorkState.CANCELLING, WorkState.CANCELLED}),
    Action.PAUSE: frozenset({WorkState.PAUSING, WorkState.PAUSED}),
    Action.RESUME: frozenset({WorkState.QUEUED, WorkState.RUNNING}),
    Action.RETRY: frozenset({WorkState.QUEUED, WorkState.RUNNING}),
}

log = get_logger(__name__)


def ask(session: Session, job_id: str, action: Action, *, project: str) -> JobRead:
    """Ask something of a job and return how it stands; asking again for what is under way is no error."""
    _, work = service.find(session, job_id, project=project)
    before = work.state
    if not _ASKS[action](session, job_id):
        session.expire_all()
        _, work = service.find(session, job_id, project=project)
        if not {before, work.state} & _UNDER_WAY[action]:
            raise _refusal(work, action)
    session.expire_all()
    return service.show(session, [service.find(session, job_id, project=project)])[0]


def retry(session: Session, job_id: str, how: Retry, *, project: str) -> tuple[JobRead, list[Checkpoint]]:
    """Queue an ended job again; return it, and the checkpoints whose objects may go after the commit."""
    job, _ = service.find(session, job_id, project=project)
    if datasets.hold(session, job.dataset_id, project=project) is None:
        raise Conflict(
            f"The data set {job.dataset_id} of the job was deleted. Upload it again, and make a new job with "
            f'"clone_of": "{job_id}" and the new "dataset".'
        )
    read = ask(session, job_id, Action.RETRY, project=project)
    if how.from_checkpoint or read.state is not WorkState.QUEUED:
        return read, []
    old = checkpoints.of_job(session, job_id)
    checkpoints.forget(session, old)
    jobs.begin_anew(session, job_id)
    session.expire_all()
    return service.show(session, [service.find(session, job_id, project=project)])[0], old


def delete(session: Session, job_id: str, *, project: str) -> Job:
    """Hide an ended job from everything that looks for one; its adapter stays."""
    job, work = service.find(session, job_id, project=project)
    if Action.DELETE not in allowed_actions(work.state):
        raise _refusal(work, Action.DELETE)
    checkpoints.forget(session, checkpoints.of_job(session, job_id))
    jobs.record(session, job_id, deleted_at=utc_now())
    return job


def remove_objects(storage: Storage, prefix: str) -> None:
    """Remove what no row names any more. What a store that is away keeps, the janitor finds."""
    try:
        storage.delete_below(prefix)
    except WorkFailed as failed:
        log.warning("objects stay behind", prefix=prefix, error=failed.detail)


def _refusal(work: Work, action: Action) -> Conflict:
    allowed = allowed_actions(work.state)
    may = f"it allows {', '.join(allowed)}" if allowed else "wait until it has come to rest"
    return Conflict(
        f"The job is {work.state}, so {action} is not possible; {may}.", state=work.state.value, allowed=list(allowed)
    )
