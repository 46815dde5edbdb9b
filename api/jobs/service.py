"""The rules of jobs: what may be made, and from what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from api.base_models.names import check_base_model
from api.datasets.access import refuse_unready
from api.idempotency import Answer
from api.jobs.estimates import NOTHING, Expectation
from api.jobs.needs import needs
from api.jobs.outlooks import Expected, Outlooks
from api.jobs.schemas import JobClone, JobCreate, JobRead, read_job
from api.text import NAME_CHARS, is_id
from core.db import insert, values_of
from core.errors import Invalid, NotFound
from core.http import read_model
from core.ids import Prefix, new_id
from core.queue import Queue
from models import adapter as adapters
from models import dataset as datasets
from models import event
from models import job as jobs
from models.dataset import Held
from models.job import Job
from models.states import Kind, WorkState
from models.work import Work

ASKED = (
    "method",
    "hyperparameters",
    "image",
    "resources",
    "allow_quality_tradeoff",
)  # of a request, kept together in one column


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A job that may be made.

    Attributes:
        dataset: Held until the transaction ends.
        expected: What is known of its run; None where nothing can be.
    """

    body: JobCreate
    dataset: Held
    expected: Expected | None


def create(session: Session, body: JobCreate | JobClone, outlooks: Outlooks, *, project: str) -> Answer:
    """Write the rows of a new job and return the answer; the caller commits and rings."""
    clone_of = body.clone_of if isinstance(body, JobClone) else None
    body, dataset = settle(session, body, project=project)
    accepted = Accepted(body=body, dataset=dataset, expected=outlooks.admit(session, body, dataset))
    job, work = make_job(session, accepted, project=project, clone_of=clone_of)
    expected = Expectation(queue_position=jobs.queue_position(session, work))
    read = read_job(job, work, adapter=None, expected=expected)
    return Answer(status=202, body=read.model_dump(mode="json"), location=f"/jobs/{job.id}")


def settle(session: Session, body: JobCreate | JobClone, *, project: str) -> tuple[JobCreate, Held]:
    """Return what a job would be, and its data set, held until the transaction ends; or refuse it."""
    if isinstance(body, JobClone):
        body = read_model(JobCreate, lay_over(request_of(session, body.clone_of, project=project), body.changes))
    check_base_model(body.base_model)
    return body, ready_dataset(session, body.dataset, project=project)


def make_job(
    session: Session,
    accepted: Accepted,
    *,
    project: str,
    clone_of: str | None = None,
    batch_id: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> tuple[Job, Work]:
    """Write the rows of one job over a data set that is held; every new job is made here."""
    body, dataset, expected = accepted.body, accepted.dataset, accepted.expected
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
        needed_bytes=None if expected is None else expected.needed_bytes,
        least_bytes=None if expected is None else expected.least_bytes,
    )
    job = Job(
        id=work.id,
        project=project,
        name=body.name or default_name(body, dataset),
        base_model=body.base_model,
        dataset_id=dataset.id,
        dataset_digest=dataset.digest,
        seed=body.seed,
        request=body.model_dump(mode="json", include=set(ASKED)),
        labels=body.metadata,
        clone_of=clone_of,
        batch_id=batch_id,
        overrides=overrides,
        planned_examples=needed.planned_examples,
        plan=None if expected is None else expected.document,
    )
    event.begin(session, work, "Queued.", state=work.state)
    insert(session, Job, values_of(job))
    return job, work


def default_name(body: JobCreate, dataset: Held) -> str:
    """Return what a job is called that nobody named."""
    return f"{dataset.name} on {body.base_model}"[:NAME_CHARS]


def request_of(session: Session, job_id: str, *, project: str) -> dict[str, Any]:
    """Return what a job was made with as a body that makes it again, or refuse with 422."""
    found = jobs.get(session, job_id, project=project) if is_id(job_id) else None
    if found is None:
        raise Invalid.field("#/clone_of", f"There is no job {job_id!r}; GET /jobs lists them.")
    job, work = found
    named = {"base_model": job.base_model, "dataset": job.dataset_id, "name": job.name, "seed": job.seed}
    asked = {part: job.request[part] for part in ASKED if part in job.request}  # jobs made before there was a choice
    return named | asked | {"priority": work.priority, "metadata": job.labels}


def lay_over(original: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a body with changes laid over it: objects field by field, anything else as a whole."""
    laid = dict(original)
    for name, value in changes.items():
        before = laid.get(name)
        laid[name] = lay_over(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return laid


def ready_dataset(session: Session, dataset_id: str, *, project: str) -> Held:
    """Return a data set that is ready, held until the transaction ends, or refuse with 422 or 409."""
    found = datasets.hold(session, dataset_id, project=project) if is_id(dataset_id) else None
    if found is None:
        raise Invalid.field("#/dataset", f"There is no data set {dataset_id!r}; POST /datasets makes one.")
    refuse_unready(found.id, found.state, has_report=found.has_report, failure=found.failure)
    return found


def find(session: Session, job_id: str, *, project: str) -> tuple[Job, Work]:
    """Return a job's rows, or refuse with 404."""
    return _there(jobs.get(session, job_id, project=project) if is_id(job_id) else None, job_id)


def hold(session: Session, job_id: str, *, project: str) -> tuple[Job, Work]:
    """Return a job's rows, whose state nobody changes until the transaction ends, or refuse with 404."""
    return _there(jobs.hold(session, job_id, project=project) if is_id(job_id) else None, job_id)


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


def _there(found: tuple[Job, Work] | None, job_id: str) -> tuple[Job, Work]:
    if found is None:
        raise NotFound(f"There is no job {job_id!r}.")
    return found
