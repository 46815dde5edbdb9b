"""The rules of jobs: what may be made, what may be cancelled."""

from collections.abc import Mapping, Sequence

from sqlmodel import Session

from api.datasets.access import ready
from api.idempotency import Answer
from api.jobs.estimates import NOTHING, Expectation
from api.jobs.needs import needs
from api.jobs.schemas import JobCreate, JobRead, read_job
from api.text import is_id
from core.errors import Conflict, Invalid, NotFound
from core.ids import Prefix, new_id
from core.queue import Queue
from models import adapter as adapters
from models import dataset as datasets
from models import event, leases
from models import job as jobs
from models.dataset import Dataset
from models.job import Job
from models.states import Kind, WorkState
from models.work import Work


def create(session: Session, body: JobCreate, *, project: str) -> Answer:
    """Write the rows of a new job and return the answer; the caller commits and rings."""
    dataset = _ready_dataset(session, body.dataset, project=project)
    assert dataset.digest is not None
    needed = needs(body.resources, body.hyperparameters, dataset.splits)
    work = Work(
        id=new_id(Prefix.JOB),
        project=project,
        kind=Kind.TRAINING,
        queue=Queue.GPU,
        priority=body.priority,
        gpus=needed.gpus,
        resource_class=needed.resource_class,
    )
    job = Job(
        id=work.id,
        project=project,
        name=body.name or f"{dataset.name} on {body.base_model}"[:200],
        base_model=body.base_model,
        dataset_id=dataset.id,
        dataset_digest=dataset.digest,
        seed=body.seed,
        request=body.model_dump(mode="json", include={"method", "hyperparameters", "image", "resources"}),
        labels=body.metadata,
        planned_examples=needed.planned_examples,
    )
    session.add(work)
    session.flush()
    session.add(job)
    session.flush()
    event.note(session, work.id, "Queued.", state=work.state)
    expected = Expectation(queue_position=jobs.queue_position(session, work))
    read = read_job(job, work, adapter=None, expected=expected)
    return Answer(status=202, body=read.model_dump(mode="json"), location=f"/jobs/{job.id}")


def find(session: Session, job_id: str, *, project: str) -> tuple[Job, Work]:
    """Return a job's rows, or refuse with 404."""
    found = jobs.get(session, job_id, project=project) if is_id(job_id) else None
    if found is None:
        raise NotFound(f"There is no job {job_id!r}.")
    return found


def show(
    session: Session, rows: Sequence[tuple[Job, Work]], expected: Mapping[str, Expectation] | None = None
) -> list[JobRead]:
    """Return jobs with what lies in other tables, and what was forecast of them."""
    made = adapters.of_jobs(session, [job.id for job, _ in rows])
    return [
        read_job(job, work, adapter=made.get(job.id), expected=_expected(session, work, (expected or {}).get(job.id)))
        for job, work in rows
    ]


def _expected(session: Session, work: Work, forecast: Expectation | None) -> Expectation:
    """Return what still holds of a forecast: the row may be younger."""
    if work.state is WorkState.QUEUED:
        if forecast is not None and forecast.queue_position is not None:
            return forecast
        return Expectation(queue_position=jobs.queue_position(session, work))
    if work.state is WorkState.RUNNING and forecast is not None:
        return Expectation(estimated_finish=forecast.estimated_finish)
    return NOTHING


def cancel(session: Session, job_id: str, *, project: str) -> JobRead:
    """Ask for the end of a job; asking again while it ends is no error."""
    _, before = find(session, job_id, project=project)
    if leases.cancel(session, job_id) is None and before.state not in leases.ENDING:
        raise Conflict(
            f"The job is {before.state} and cannot be cancelled; only a queued, paused or running job can.",
            state=before.state.value,
        )
    session.expire_all()
    return show(session, [find(session, job_id, project=project)])[0]


def _ready_dataset(session: Session, dataset_id: str, *, project: str) -> Dataset:
    found = datasets.hold(session, dataset_id, project=project) if is_id(dataset_id) else None
    if found is None:
        raise Invalid.field("#/dataset", f"There is no data set {dataset_id!r}; POST /datasets makes one.")
    return ready(*found)
