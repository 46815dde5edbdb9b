"""`/jobs/batch`."""

from fastapi import APIRouter, Request, Response

from api.documents import problems
from api.idempotency import Answer, KeyHeader, fingerprint, once
from api.jobs import batches
from api.jobs.batches import BatchCreate, BatchRead
from api.listing import Cursor, Limit, Page, paged
from api.services import ProjectDep, ServicesDep
from core.errors import Conflict, NotFound
from core.queue import Queue
from models import control
from models import job as jobs
from models.states import TERMINAL

router = APIRouter(prefix="/jobs/batch", tags=["jobs"])


@router.post("", status_code=202, response_model=BatchRead, responses=problems(Conflict))
def create_batch(
    body: BatchCreate, request: Request, services: ServicesDep, project: ProjectDep, key: KeyHeader = None
) -> Response:
    """Make a job for each combination of a grid, all of them or none."""
    answer: Answer = once(
        services,
        request,
        project=project,
        key=key,
        content=fingerprint(body.model_dump(mode="json", exclude_unset=True)),
        make=lambda session: batches.create(session, body, project=project),
    )
    if not answer.replayed:
        services.doorbell.ring(Queue.GPU, answer.body["jobs"][0]["id"])
    return answer.response()


@router.get("")
def list_batches(
    services: ServicesDep, project: ProjectDep, limit: Limit = 20, cursor: Cursor = None
) -> Page[BatchRead]:
    """List batches, newest first."""
    with services.database.read() as session:
        rows = jobs.page_of_batches(session, project=project, before=cursor, limit=limit + 1)
        shown = [batches.show(session, row, jobs.of_batch(session, row.id)) for row in rows]
    return paged(shown, limit=limit, read=lambda batch: batch, cursor=lambda batch: batch.id)


@router.get("/{batch_id}", responses=problems(NotFound))
def get_batch(batch_id: str, services: ServicesDep, project: ProjectDep) -> BatchRead:
    """Show a batch: its jobs, what each of them tried, and which is best so far."""
    with services.database.read() as session:
        return batches.show(session, *batches.find(session, batch_id, project=project))


@router.post("/{batch_id}/cancel", responses=problems(NotFound))
def cancel_batch(batch_id: str, services: ServicesDep, project: ProjectDep) -> BatchRead:
    """Ask for the end of every job of a batch that has not ended."""
    with services.database.write() as session:
        _, rows = batches.find(session, batch_id, project=project)
        for job, work in rows:
            if work.state not in TERMINAL:
                control.cancel(session, job.id)
        session.expire_all()
        return batches.show(session, *batches.find(session, batch_id, project=project))
