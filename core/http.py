"""What the two HTTP rooms (`api`, `serving`) share: problem documents, request ids, a clean end of streams."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from types import FrameType
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import FailureCode, FieldError, Invalid, Problem, TooLarge, Unavailable, WorkFailed
from core.ids import Prefix, new_id
from core.logs import get_logger

PROBLEM_TYPE = "application/problem+json"
CLIENT_GONE_STATUS = 499  # nginx's number; nobody is left to read it
ONLY_AUTO = "Input should be 'auto'"  # pydantic's words for the branch `Literal["auto"]`
NO_FILE = "Value error, Expected UploadFile"  # FastAPI's words, before a class of Python's
TOO_LARGE = (
    "The body is larger than this server takes: LENSMITH_MAX_UPLOAD_BYTES bounds POST /datasets and the parts of an "
    "upload, LENSMITH_MAX_INFER_BYTES POST /infer, and any other body may have 1 MiB. Send less, or split the data set."
)

Model = TypeVar("Model", bound=BaseModel)

log = get_logger(__name__)


class HttpApp(FastAPI):
    """FastAPI whose own body limit answers with a problem document as well.

    The limit answers 413 in plain text from outside of every middleware that `add_middleware` takes, so this wraps the
    whole stack.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """Return the stack, wrapped."""
        return _ProblemOf413(super().build_middleware_stack())


class _ProblemOf413:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = False

        async def forward(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and _is_plain_413(message):
                replaced = True
                problem = TooLarge(TOO_LARGE)
                await problem_response(Request(scope), problem)(scope, receive, send)
            elif not replaced:
                await send(message)

        await self._app(scope, receive, forward)


def _is_plain_413(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    return start["status"] == TooLarge.status and headers.get("content-type", "").startswith("text/plain")


def install_problems(app: FastAPI) -> None:
    """Make every refusal of `app` an RFC 9457 document with the request's id."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(WorkFailed, _on_failed)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_middleware(_RequestIds)


def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(request, error)


def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(request, invalid_from(error.errors(), given=error.body))


def _on_failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, WorkFailed)
    kind = Unavailable if error.code is FailureCode.STORAGE else Invalid
    return problem_response(request, kind(f"{error.detail} {error.remedy}", code=error.code.value))


def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, Problem):  # of `read_json`
        return problem_response(request, error.__cause__)
    if error.status_code == HTTPStatus.BAD_REQUEST:  # only readers of bodies raise it, and what they say is often empty
        why = f": {error.__cause__}" if error.__cause__ is not None else ""
        return problem_response(request, Invalid.field("#", _sentence(f"{str(error.detail).rstrip('.')}{why}")))
    return _document(
        {
            "type": "about:blank",
            "title": HTTPStatus(error.status_code).phrase,
            "status": error.status_code,
            "detail": str(error.detail),
            "instance": request_id(request),
        },
        headers=dict(error.headers or {}),
    )


class _RequestIds:
    """ASGI middleware that gives every request an id, and an answer to one that broke.

    Not Starlette's `BaseHTTPMiddleware`: its tasks and its stream cost every request 0.3 ms, and every follower of a log memory.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope.setdefault("state", {})["request_id"] = new_id(Prefix.REQUEST)
        is_started = False

        async def named(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, named)
        except Exception:  # the edge of the process: nothing leaves without a document
            if is_started:
                raise
            log.exception("request failed", path=scope["path"], request_id=request_id)
            broken = Problem("Something broke on our side; the log has this request's id.")
            await problem_response(Request(scope), broken)(scope, receive, named)


def invalid_from(errors: Any, *, given: Any = None) -> Invalid:
    """Turn pydantic's list of errors into one problem with one entry per wrong field.

    Args:
        errors: The list; each `loc` begins with `body`, `query`, `path` or `header`.
        given: The body, parsed; a step of a `loc` that it does not have is the name of a union's branch.
    """
    messages: dict[str, list[str]] = {}
    for error in errors:
        messages.setdefault(_pointer(_place(error, given)), []).append(error["msg"])
    fields = tuple(
        FieldError(pointer=pointer, detail=_sentence(_merged(said)))
        for pointer, said in messages.items()
        if not any(other.startswith(f"{pointer}/") for other in messages)  # what lies deeper says it better
    )
    first = fields[0]
    more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
    return Invalid(f"{first.pointer}: {first.detail}{more}", errors=fields)


_SAYS_MORE = {
    "recursion limit exceeded": "it nests deeper than 200 levels",
    "unexpected end of hex escape": "half of a surrogate pair, which is no character",
}


class JsonRoute(APIRoute):
    """A route whose body is read by `read_json`: FastAPI's own reader lets pass what no answer and no database can hold."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, over a request that reads so."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return handle


class _JsonRequest(Request):
    async def json(self) -> Any:
        return read_json(await self.body())


def read_json(body: bytes) -> Any:
    """Return a body's JSON; raises `Invalid` with the line and the column.

    Half a surrogate pair, `NaN`, `Infinity` and more than 200 levels are refused as well.
    """
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        why, _, place = str(error).rpartition(" at line ")
        line, _, column = place.partition(" column ")
        said = f"The body is not JSON: line {line}, column {column}: {_SAYS_MORE.get(why, why)}"
        raise Invalid.field("#", _sentence(said)) from error


def read_model(kind: type[Model], given: Any) -> Model:
    """Return a parsed body as a value of its model; raises `Invalid` with a pointer per wrong field."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise invalid_from([{**e, "loc": ("body", *e["loc"])} for e in error.errors()], given=given) from error


def content_type(request: Request) -> str:
    """Return the media type of a request's body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def problem_response(request: Request, problem: Problem) -> Response:
    """Return the response of a problem."""
    headers = {"WWW-Authenticate": "Bearer"} if problem.status == HTTPStatus.UNAUTHORIZED else {}
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(problem.retry_after_s)
    return _document(problem.document(request_id(request)), headers=headers)


def request_id(request: Request) -> str:
    """Return the id that the answer and the log share."""
    return str(getattr(request.state, "request_id", None) or new_id(Prefix.REQUEST))


def _document(body: dict[str, Any], *, headers: dict[str, str]) -> Response:
    headers = headers | {"x-request-id": body["instance"]}
    return JSONResponse(body, status_code=body["status"], media_type=PROBLEM_TYPE, headers=headers)


def _place(error: Any, given: Any) -> tuple[Any, ...]:
    """Return the steps to the field, for FastAPI's `("body", "hyperparameters", "learning_rate", "constrained-float")`."""
    location = error["loc"]
    if not location or location[0] != "body" or given is None:
        return tuple(location[1:])
    steps, node = [], given
    for index, step in enumerate(location[1:], start=2):
        is_missing_field = error["type"] == "missing" and index == len(location)
        if _has(node, step):
            node = node[step]
        elif not is_missing_field:
            continue
        steps.append(step)
    return tuple(steps)


def _has(node: Any, step: Any) -> bool:
    if isinstance(node, Mapping):
        return step in node
    return isinstance(node, list | tuple) and isinstance(step, int) and step < len(node)


def _pointer(steps: tuple[Any, ...]) -> str:
    path = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)
    return "#" + path.encode(errors="replace").decode()  # a lone surrogate could not be sent


def _merged(messages: list[str]) -> str:
    """Join what the branches of a union say; `auto` beside another branch is an afterthought."""
    others = list(dict.fromkeys(message for message in messages if message != ONLY_AUTO))
    if not others:
        return messages[0]
    joined = "; or ".join([others[0], *(other[:1].lower() + other[1:] for other in others[1:])])
    return joined if len(messages) == 1 or ONLY_AUTO not in messages else f'{joined.rstrip(".")}, or "auto"'


def _sentence(message: str) -> str:
    if message.startswith(NO_FILE):
        return "A file is wanted here, and a text came (curl: -F file=@data.zip)."
    text = message.removeprefix("Value error, ")
    return text if text.endswith(".") else f"{text}."


@asynccontextmanager
async def ending_streams(app: FastAPI) -> AsyncIterator[None]:
    """Set `app.state.stopping` on SIGTERM and SIGINT, then let the old handler do its work.

    uvicorn waits for open responses before it runs the shutdown of the lifespan, so a stream that waits for that would
    hold the exit for ever; with the signal itself the exit takes 0.2 s (facts: ux 3).
    """
    app.state.stopping = asyncio.Event()
    with _chained_signals(asyncio.get_running_loop(), app.state.stopping):
        yield
    app.state.stopping.set()


@contextmanager
def _chained_signals(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> Iterator[None]:
    def chained(previous: Any) -> Callable[[int, FrameType | None], None]:
        def handle(signum: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(stopping.set)
            if callable(previous):
                previous(signum, frame)

        return handle

    previous: dict[signal.Signals, Any] = {}
    try:
        for signum in (signal.SIGTERM, signal.SIGINT):
            previous[signum] = signal.getsignal(signum)
            signal.signal(signum, chained(previous[signum]))
    except ValueError:  # not the main thread: a test client, which has no signals
        yield
        return
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
