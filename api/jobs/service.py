"""Jobs as the API makes, finds and shows them."""

from collections.abc import Sequence

from sqlmodel import Session

from api.idempotency import Answer
from api.jobs import making
from api.jobs.schemas import JobCreate, JobRead, read_job
from api.text import is_id
from core.errors import NotFound
from models import adapter as adapters
from models import job as jobs
from models.job import Job
from models.work import Work


def create(session: Session, body: JobCreate, *, project: str) -> Answer:
    """Write the rows of a new job and return the answer; the caller commits and rings."""
    job, work = making.make_job(session, making.completed(session, body, project=project), project=project)
    read = read_job(job, work, adapter=None, queue_position=jobs.queue_position(session, work))
    return Answer(status=202, body=read.model_dump(mode="json"), location=f"/jobs/{job.id}")


def find(session: Session, job_id: str, *, project: str) -> tuple[Job, Work]:
    """Return a job's rows, or refuse with 404."""
    found = jobs.get(session, job_id, project=project) if is_id(job_id) else None
    if found is None:
        raise NotFound(f"There is no job {job_id!r}.")
    return found


def show(session: Session, rows: Sequence[tuple[Job, Work]]) -> list[JobRead]:
    """Return jobs with what lies in other tables."""
    made = adapters.of_jobs(session, [job.id for job, _ in rows])
    return [
        read_job(job, work, adapter=made.get(job.id), queue_position=jobs.queue_position(session, work))
        for job, work in rows
    ]
