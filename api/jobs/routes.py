"""`/jobs`."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse

from api.documents import problems
from api.idempotency import KeyHeader, fingerprint
from api.jobs import actions, batches, dry_run, following, logs, memory, records, service
from api.jobs.dry_run import DryRun, DryRunQuery
from api.jobs.log_pages import read_page
from api.jobs.schemas import MAX_SEQ, JobBody, JobClone, JobRead, LogPage, LogQuery, read_item
from api.jobs.submission import submit
from api.listing import Cursor, Limit, Page, paged
from api.services import ProjectDep, ServicesDep
from api.text import ID_PATTERN
from core.errors import Conflict, InFlight, Invalid, NotFound
from core.http import JsonRoute
from core.queue import Queue
from models import job as jobs
from models.states import EventKind, WorkState

NDJSON_TYPE = "application/x-ndjson"

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=JsonRoute)


@router.post(
    "",
    status_code=202,
    response_model=JobRead,
    responses=problems(Conflict, InFlight)
    | {200: {"model": DryRun, "description": "with `dry_run`: the plan of the job; nothing was made"}},
)
def create_job(
    body: JobBody,
    request: Request,
    services: ServicesDep,
    project: ProjectDep,
    question: Annotated[DryRunQuery, Query()],
    key: KeyHeader = None,
) -> Response:
    """Accept a fine-tuning job. It is stored before this answers; a worker claims it, with or without the broker.

    With `clone_of` it begins with what another job was made with, and only what differs is given. With `dry_run` nothing is
    made: the answer is what the job would hold, how long it would take, and what `"auto"` would come to.
    """
    _refuse_other_questions(request)
    if question.dry_run:
        return dry_run.answer(services, body, project=project, device=question.device)
    if question.device is not None:
        raise Invalid.field("#/device", "A device is named for a dry run; a job says in `resources` what it needs.")
    answer = submit(
        services,
        request,
        project=project,
        key=key,
        content=fingerprint(body.model_dump(mode="json", exclude_unset=isinstance(body, JobClone))),
        make=lambda session: service.create(session, body, services.outlooks, project=project),
    )
    if not answer.replayed:
        services.doorbell.ring(Queue.GPU, answer.body["id"])
    return answer.response()


@router.get("")
def list_jobs(
    services: ServicesDep,
    project: ProjectDep,
    limit: Limit = 20,
    cursor: Cursor = None,
    state: Annotated[WorkState | None, Query(description="only jobs in this state")] = None,
    batch: Annotated[str | None, Query(pattern=ID_PATTERN, description="only jobs of this batch")] = None,
) -> Page[JobRead]:
    """List jobs, newest first."""
    expected = services.estimates.now()
    with services.database.read() as session:
        rows = jobs.page(session, project=project, before=cursor, limit=limit + 1, state=state, batch_id=batch)
        shown = service.show(session, rows, expected)
    return paged(shown, limit=limit, read=lambda job: job, cursor=lambda job: job.id)


router.include_router(batches.router)  # before `/{job_id}`, which would take `batch` for an id
router.include_router(actions.router)
router.include_router(records.router)
router.include_router(memory.router)


@router.get("/{job_id}", responses=problems(NotFound))
def get_job(job_id: str, services: ServicesDep, project: ProjectDep) -> JobRead:
    """Show a job as it stands."""
    expected = services.estimates.now()
    with services.database.read() as session:
        return service.show(session, [service.find(session, job_id, project=project)], expected)[0]


@router.get(
    "/{job_id}/logs",
    response_model=LogPage,
    responses=problems(NotFound)
    | {200: {"content": {"text/event-stream": {}, NDJSON_TYPE: {}}, "description": "a page, or a stream that follows"}},
)
def get_job_logs(
    job_id: str, request: Request, services: ServicesDep, project: ProjectDep, query: Annotated[LogQuery, Query()]
) -> Response:
    """Read a job's log: a JSON page, or with `Accept: text/event-stream` (or `application/x-ndjson`) a live stream.

    On the stream `id` is `seq`, `event` the kind, `data` the item; a `Last-Event-ID` header goes on behind that item,
    and `event: end` closes after the job has ended.
    """
    kinds = _kinds(query.kind)
    framing = _framing(request.headers.get("accept", ""), follow=query.follow)
    with services.database.read() as session:
        service.find(session, job_id, project=project)
    if framing is None:
        items, next_cursor = read_page(services, job_id, after=query.after, limit=query.limit, kinds=kinds)
        page = LogPage(items=[read_item(item) for item in items], next_cursor=next_cursor)
        return Response(page.model_dump_json(), media_type="application/json")
    after = max(query.after, _last_event_id(request))
    wanted = following.Follow(job_id=job_id, after=after, kinds=kinds)
    stream = following.stream(services.hub, wanted, framing)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    if framing is logs.NDJSON:
        return StreamingResponse(stream, media_type=NDJSON_TYPE, headers=headers)
    return EventSourceResponse(stream, headers=headers)


def _refuse_other_questions(request: Request) -> None:
    """Refuse what else stands behind the `?`: who misspells a dry run, or contradicts it, must not get a job."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if names.count(name) > 1:
            raise Invalid.field(f"#/{name}", f"{name} stands there more than once; give it once.")
        if name in DryRunQuery.model_fields:
            continue
        raise Invalid.field(f"#/{name}", f"POST /jobs takes no query parameter {name!r}; options stand in the body.")


def _framing(accept: str, *, follow: bool) -> logs.Framing | None:
    """Return how to stream; None for a page."""
    if NDJSON_TYPE in accept:
        return logs.NDJSON
    return logs.SSE if follow or "text/event-stream" in accept else None


def _last_event_id(request: Request) -> int:
    given = request.headers.get("last-event-id", "0")
    if not given.isascii() or not given.isdigit() or len(given) > 10 or int(given) > MAX_SEQ:
        raise Invalid.field("#/last-event-id", f"Last-Event-ID is the `seq` of an item, a number, not {given[:40]!r}.")
    return int(given)


def _kinds(kind: str | None) -> frozenset[EventKind] | None:
    if kind is None:
        return None
    try:
        return frozenset(EventKind(name.strip()) for name in kind.split(","))
    except ValueError as error:
        raise Invalid.field("#/kind", f"{error}; the kinds are {', '.join(EventKind)}.") from error
