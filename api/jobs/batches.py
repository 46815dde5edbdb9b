"""`/jobs/batch`: many jobs from one request, and one thing to watch."""

from fastapi import APIRouter, Request, Response
from sqlmodel import Session

from api.documents import problems
from api.idempotency import KeyHeader, fingerprint
from api.jobs import sweeps
from api.jobs.batch_schemas import BatchCreate, BatchRead, BatchSummary, read_batch, summarize
from api.jobs.submission import submit
from api.listing import Cursor, Limit, Page, paged
from api.services import ProjectDep, ServicesDep
from api.text import is_id
from core.errors import Conflict, InFlight, NotFound
from core.http import JsonRoute
from core.queue import Queue
from models import adapter as adapters
from models import batch as batches
from models import control
from models.job import Batch

router = APIRouter(prefix="/batch", route_class=JsonRoute)


@router.post("", status_code=202, response_model=BatchRead, responses=problems(Conflict, InFlight))
def create_batch(
    body: BatchCreate, request: Request, services: ServicesDep, project: ProjectDep, key: KeyHeader = None
) -> Response:
    """Make one job for every combination of the grid's values: all of them, or none when one is refused."""
    answer = submit(
        services,
        request,
        project=project,
        key=key,
        content=fingerprint(body.model_dump(mode="json")),
        make=lambda session: sweeps.create(session, body, services.outlooks, project=project),
    )
    if not answer.replayed:
        services.doorbell.ring(Queue.GPU, answer.body["jobs"][0]["id"])
    return answer.response()


@router.get("")
def list_batches(
    services: ServicesDep, project: ProjectDep, limit: Limit = 20, cursor: Cursor = None
) -> Page[BatchSummary]:
    """List batches, newest first, with how many of their jobs stand where."""
    with services.database.read() as session:
        rows = batches.page(session, project=project, before=cursor, limit=limit + 1)
        states = batches.count_by_state(session, [row.id for row in rows])
    return paged(rows, limit=limit, read=lambda row: summarize(row, states[row.id]), cursor=lambda row: row.id)


@router.get("/{batch_id}", responses=problems(NotFound))
def get_batch(batch_id: str, services: ServicesDep, project: ProjectDep) -> BatchRead:
    """Show a batch: how its jobs stand, what each took of the grid, and which is the best so far."""
    with services.database.read() as session:
        return _show(session, _find(session, batch_id, project=project))


@router.post("/{batch_id}/cancel", responses=problems(NotFound))
def cancel_batch(batch_id: str, services: ServicesDep, project: ProjectDep) -> BatchRead:
    """Ask for the end of every job of a batch that has not ended. One that is just being paused comes to be paused."""
    with services.database.write() as session:
        batch = _find(session, batch_id, project=project)
        for job, _ in batches.jobs_of(session, batch_id):
            control.cancel(session, job.id)
        session.expire_all()
        return _show(session, batch)


def _find(session: Session, batch_id: str, *, project: str) -> Batch:
    found = batches.get(session, batch_id, project=project) if is_id(batch_id) else None
    if found is None:
        raise NotFound(f"There is no batch {batch_id!r}.")
    return found


def _show(session: Session, batch: Batch) -> BatchRead:
    rows = batches.jobs_of(session, batch.id)
    return read_batch(batch, rows, adapters=adapters.of_jobs(session, [job.id for job, _ in rows]))
