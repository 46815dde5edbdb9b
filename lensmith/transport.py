"""HTTP as the SDK uses it: a key, problems as exceptions, idempotency keys, new tries of what is refused for a moment."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import httpx2

from lensmith import waiting
from lensmith.errors import ApiError, Unreachable

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 600.0
CONNECT_RETRIES = 2
PASSING = frozenset({502, 503, 504})  # of a server that restarts, or of the proxy before it
REFUSED = PASSING - {504}  # nothing was done; after a 504 it may be under way
IN_FLIGHT = "/problems/in-flight"  # the request came before, and is being answered
LOST_REPLY = (httpx2.ReadError, httpx2.RemoteProtocolError)


class Transport:
    """One connection pool to one server.

    A server that has answered before, or broke off, is there: while it restarts it is asked again for half a minute. One
    that was never heard of is unreachable at once.
    """

    def __init__(
        self, url: str | None, api_key: str | None, *, http: httpx2.Client | None = None, is_known: bool = False
    ) -> None:
        key = api_key or os.environ.get("LENSMITH_API_KEY")
        self.url = url or os.environ.get("LENSMITH_URL") or DEFAULT_URL
        self._http = http or httpx2.Client(
            base_url=self.url,
            timeout=httpx2.Timeout(TIMEOUT_S, connect=5.0),
            transport=httpx2.HTTPTransport(retries=CONNECT_RETRIES),
        )
        self._is_known = is_known
        if key:
            self._http.headers["authorization"] = f"Bearer {key}"

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON of a GET."""
        given = {name: value for name, value in params.items() if value is not None}
        return self._json("GET", path, params=given)

    def post(self, path: str, **request: Any) -> Any:
        """Return the JSON of a POST. An idempotency key goes with it, so a lost reply makes nothing twice."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return self._json("POST", path, headers=headers, **request)

    def put(self, path: str, **request: Any) -> Any:
        """Return the JSON of a PUT. It is not sent again: what it carries may be there already."""
        return self.once("PUT", path, **request)

    def delete(self, path: str) -> None:
        """Delete something. It is not sent again after a lost reply: what is gone would be a 404."""
        with translated():
            checked(self._http.request("DELETE", path))

    @contextmanager
    def stream(self, path: str, **params: Any) -> Iterator[httpx2.Response]:
        """Yield an open response."""
        with translated(), self._http.stream("GET", path, params=params) as response:
            if not response.is_success:
                response.read()
            yield checked(response)

    @contextmanager
    def events(self, path: str, *, after: int, **params: Any) -> Iterator[Iterator[httpx2.ServerSentEvent]]:
        """Yield the events of an SSE stream that goes on behind item `after`."""
        timeout = httpx2.Timeout(TIMEOUT_S, connect=5.0, read=60.0)
        headers = {"Last-Event-ID": str(after)}
        with translated(), self._http.sse(path, params=params, headers=headers, timeout=timeout) as source:
            if not source.response.is_success:
                source.response.read()
            checked(source.response)
            yield iter(source)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def once(self, method: str, path: str, **request: Any) -> Any:
        """Return the JSON of one request, which is not sent again whatever the answer."""
        try:
            with translated():
                response = self._http.request(method, path, **request)
        except Unreachable as error:
            self._is_known |= isinstance(error.__cause__, LOST_REPLY)
            raise
        self._is_known = True
        return checked(response).json()

    def _json(self, method: str, path: str, **request: Any) -> Any:
        give_up_at, patience = time.monotonic() + TIMEOUT_S, waiting.Patience()
        passing = PASSING if method == "GET" else REFUSED
        while True:
            _rewind(request)
            try:
                return self.once(method, path, **request)
            except (Unreachable, ApiError) as error:
                if _is_in_flight(error) and time.monotonic() < give_up_at:
                    time.sleep(1.0 if error.retry_after_s is None else error.retry_after_s)
                    continue
                is_passing = error.status in passing if isinstance(error, ApiError) else self._is_known
                patience.spend(error, is_passing=is_passing)


def _is_in_flight(error: Exception) -> TypeGuard[ApiError]:
    return isinstance(error, ApiError) and error.document.get("type") == IN_FLIGHT


def _rewind(request: dict[str, Any]) -> None:
    """Let the files of a form be read from their beginning, though they were sent before."""
    files = request.get("files", {})
    for _, (_, content) in files.items() if isinstance(files, dict) else files:
        if hasattr(content, "seek"):
            content.seek(0)


@contextmanager
def translated() -> Iterator[None]:
    """Turn a broken connection into `Unreachable`."""
    try:
        yield
    except httpx2.TransportError as error:
        raise Unreachable(f"The server does not answer: {error}") from error


def is_passing(error: Unreachable | ApiError) -> bool:
    """Tell whether a server that restarts, or the proxy before it, looks like this."""
    return isinstance(error, Unreachable) or error.status in PASSING


def checked(response: httpx2.Response) -> httpx2.Response:
    """Return a success, raise the server's problem otherwise."""
    if response.is_success:
        return response
    try:
        document = response.json()
    except ValueError:
        document = {"title": response.reason_phrase, "detail": response.text[:500]}
    seconds = response.headers.get("retry-after", "")
    raise ApiError(document, status=response.status_code, retry_after_s=float(seconds) if seconds.isdigit() else None)
