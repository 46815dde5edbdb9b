"""`/infer`."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, format_sse_event

from api import serving
from api.documents import problems
from api.infer import forms, refusals, service
from api.infer.schemas import InferAnswer, InferRequest
from api.services import ProjectDep, ServicesDep
from core.errors import Busy, Conflict, NotFound, Problem, TimedOut, TooLarge, Unavailable
from core.http import CLIENT_GONE_STATUS, request_id
from core.settings import Settings

T = TypeVar("T")


def make_router(settings: Settings) -> APIRouter:
    """Return the routes; the body's limit comes from the settings."""
    router = APIRouter(prefix="/infer", tags=["infer"])
    router.post(
        "",
        response_model=InferAnswer,
        responses=problems(NotFound, Conflict, TooLarge, Busy, Unavailable, TimedOut)
        | {200: {"content": {"text/event-stream": {}}, "description": "the answer; with `stream`, its pieces as SSE"}},
        openapi_extra=forms.OPENAPI_BODY,
        max_body_size=settings.max_infer_bytes,
    )(infer)
    return router


async def infer(request: Request, services: ServicesDep, project: ProjectDep) -> Response:
    """Ask about one or more pictures, with an adapter or with its base model alone.

    With `stream` the answer comes as SSE: `event: delta` with a piece of text, at the end `event: end` with the whole
    answer, or `event: error` with a problem.
    """
    body = await forms.parse(request)
    target = await run_in_threadpool(service.resolve, services, body, project=project)
    call = _Call(request=request, body=body, target=target, is_form=forms.is_form(request))
    sent = services.serving.build_request("POST", "/generate", json=service.generate_body(body, target))
    try:
        response = await _unless_gone(request, services.serving.send(sent, stream=True))
        if response is None:
            return Response(status_code=CLIENT_GONE_STATUS)
        if not response.is_success or not body.stream:
            return await _whole(response, call)
    except httpx2.HTTPError as error:
        raise serving.unreachable(error) from error
    return EventSourceResponse(_deltas(response, call), headers={"X-Accel-Buffering": "no"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A question on its way."""

    request: Request
    body: InferRequest
    target: service.Target
    is_form: bool


async def _whole(response: httpx2.Response, call: _Call) -> Response:
    async with aclosing(response):
        if await _unless_gone(call.request, response.aread()) is None:
            return Response(status_code=CLIENT_GONE_STATUS)
    if not response.is_success:
        raise refusals.problem_of(response, call.body, is_form=call.is_form)
    try:
        generated = response.json()
    except ValueError as error:
        raise serving.unreadable() from error
    return JSONResponse(service.answer(call.target, generated).model_dump(mode="json"))


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what `work` returns, or None after the client left; the work is cancelled then, and serving's with it."""
    task = asyncio.create_task(work)
    # not `is_disconnected`, which only looks: behind a middleware of Starlette's it never sees anything
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _deltas(response: httpx2.Response, call: _Call) -> AsyncIterator[bytes]:
    """Pass serving's lines on; closing this generator (the client left) closes serving's stream, which stops the work."""
    try:
        async for line in response.aiter_lines():
            yield _event(line, call)
    except httpx2.HTTPError as error:
        yield _error_event(serving.unreachable(error), call)
    except Problem as problem:
        yield _error_event(problem, call)
    finally:
        await response.aclose()


def _event(line: str, call: _Call) -> bytes:
    try:
        item = json.loads(line)
    except ValueError as error:
        raise serving.unreadable() from error
    if isinstance(item, dict) and isinstance(item.get("delta"), str):
        return format_sse_event(event="delta", data_str=json.dumps({"delta": item["delta"]}))
    if isinstance(item, dict) and "text" in item:
        return format_sse_event(event="end", data_str=service.answer(call.target, item).model_dump_json())
    raise refusals.problem_of_line(item, call.body, is_form=call.is_form)


def _error_event(problem: Problem, call: _Call) -> bytes:
    return format_sse_event(event="error", data_str=json.dumps(problem.document(request_id(call.request))))
