"""The HTTP face of serving: `POST /generate`, `POST /preview`, `POST /tokens` and `/healthz`."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse

from core.errors import NotFound, Problem, TimedOut, Unavailable
from core.http import HttpApp, JsonRoute, ending_streams, install_problems, request_id
from serving.engine import Engine
from serving.exchange import ClientGone, exchange
from serving.images import decode_images
from serving.options import ServingSettings
from serving.previewer import Previewer
from serving.wire import (
    Delta,
    Generated,
    GenerateRequest,
    Health,
    Previewed,
    PreviewRequest,
    TokenCounts,
    TokensRequest,
)
from vlm import catalog

NDJSON = "application/x-ndjson"
CLIENT_GONE_STATUS = 499  # nginx's number; nobody is left to read it
CLOSE_S = 1.0  # how long a stop waits for the token in the making

Events = AsyncGenerator[Delta | Generated, None]


def create_app(settings: ServingSettings, *, on_death: Callable[[], None] | None = None) -> FastAPI:
    """Return the application; its lifespan starts and stops the engine. `on_death` is told when the engine broke."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        settings.layout.make()
        app.state.engine.start()
        app.state.previewer.start()
        async with ending_streams(app):
            yield
        app.state.previewer.close()
        await run_in_threadpool(app.state.engine.close, timeout_s=CLOSE_S)

    app = HttpApp(title="Lensmith serving", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.settings = settings
    app.state.engine = Engine(settings, on_death=on_death)
    app.state.previewer = Previewer(settings)
    install_problems(app)
    app.include_router(_make_router(settings))
    return app


def _make_router(settings: ServingSettings) -> APIRouter:
    router = APIRouter(route_class=JsonRoute)
    router.get("/healthz")(read_health)
    # base64 makes a third more of the images that POST /infer took
    router.post("/generate", response_model=Generated, max_body_size=settings.max_infer_bytes * 2)(generate)
    router.post("/preview", response_model=Previewed, max_body_size=settings.max_infer_bytes * 2)(preview)
    router.post("/tokens", response_model=TokenCounts)(count_tokens)
    return router


async def read_health(request: Request) -> Response:
    """Say whether the engine lives, and what it holds; up before any base is loaded."""
    health: Health = request.app.state.engine.health()
    status = HTTPStatus.OK if health.status == "up" else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse(health.model_dump(mode="json"), status_code=status)


async def generate(request: Request, body: GenerateRequest) -> Response:
    """Answer one prompt, whole or as a stream of lines."""
    _check_known(body.base)
    state = request.app.state
    state.engine.check_room()
    images = await run_in_threadpool(decode_images, body.images)
    events = exchange(
        state.engine,
        body,
        images,
        deadline_s=state.settings.serving_deadline_s,
        stopping=state.stopping,
        gone=None if body.stream else request.receive,
    )
    return await _streamed(request, events) if body.stream else await _whole(events)


async def preview(request: Request, body: PreviewRequest) -> Response:
    """Show a row as training would take it."""
    return await _looked_at(request, body)


async def count_tokens(request: Request, body: TokensRequest) -> Response:
    """Say how long the examples of a data set are for a base."""
    return await _looked_at(request, body)


async def _looked_at(request: Request, body: PreviewRequest | TokensRequest) -> Response:
    _check_known(body.base)
    state = request.app.state
    deadline_s = state.settings.serving_deadline_s
    answer = asyncio.wrap_future(state.previewer.submit(body))
    stopping = asyncio.create_task(state.stopping.wait())
    try:
        await asyncio.wait({answer, stopping}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return Response(answer.result().model_dump_json(), media_type="application/json")
        if stopping.done():
            raise Unavailable("The serving process is stopping; try again.")
        raise TimedOut(f"There was no answer within {deadline_s:g} s.")
    finally:
        answer.cancel()
        stopping.cancel()


def _check_known(base: str) -> None:
    if not catalog.is_known(base):
        raise NotFound(f"There is no base model {base!r}. Choose one of GET /base-models, or a Hub id.")


async def _whole(events: Events) -> Response:
    async with aclosing(events):
        try:
            answer = await anext(events)
        except ClientGone:
            return Response(status_code=CLIENT_GONE_STATUS)
    return JSONResponse(answer.model_dump(mode="json"))


async def _streamed(request: Request, events: Events) -> Response:
    """Wait for the first event, so that a refusal is a status and not a line."""
    first = await anext(events)
    return StreamingResponse(_lines(first, events, instance=request_id(request)), media_type=NDJSON)


async def _lines(first: Delta | Generated, events: Events, *, instance: str) -> AsyncIterator[str]:
    async with aclosing(events):
        yield _line(first)
        try:
            async for event in events:
                yield _line(event)
        except Problem as problem:
            yield json.dumps({"error": problem.document(instance)}) + "\n"


def _line(event: Delta | Generated) -> str:
    return event.model_dump_json() + "\n"
