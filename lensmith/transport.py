"""HTTP as the SDK uses it: a key, problems as exceptions, idempotency keys, new tries of what is refused for a moment."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from lensmith.errors import ApiError, Unreachable

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 600.0
CONNECT_RETRIES = 2
MAX_FAILURES = 10  # in a row, before a server is given up
PASSING = frozenset({502, 503, 504})  # of a server that restarts, or of the proxy before it
IN_FLIGHT = "/problems/in-flight"  # the request came before, and is being answered
LOST_REPLY = (httpx2.ReadError, httpx2.RemoteProtocolError)


class Transport:
    """One connection pool to one server."""

    def __init__(self, url: str | None, api_key: str | None, *, http: httpx2.Client | None = None) -> None:
        key = api_key or os.environ.get("LENSMITH_API_KEY")
        self.url = url or os.environ.get("LENSMITH_URL") or DEFAULT_URL
        self._http = http or httpx2.Client(
            base_url=self.url,
            timeout=httpx2.Timeout(TIMEOUT_S, connect=5.0),
            transport=httpx2.HTTPTransport(retries=CONNECT_RETRIES),
        )
        if key:
            self._http.headers["authorization"] = f"Bearer {key}"

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON of a GET."""
        given = {name: value for name, value in params.items() if value is not None}
        return self._json("GET", path, params=given)

    def post(self, path: str, *, key: str | None = None, **request: Any) -> Any:
        """Return the JSON of a POST. An idempotency key goes with it, so a lost reply makes nothing twice."""
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        try:
            return self._json("POST", path, headers=headers, **request)
        except Unreachable as error:
            is_repeatable = "json" in request and isinstance(error.__cause__, LOST_REPLY)  # a read file is not
            if not is_repeatable:
                raise
        return self._json("POST", path, headers=headers, **request)

    def put(self, path: str, **request: Any) -> Any:
        """Return the JSON of a PUT."""
        return self._json("PUT", path, **request)

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

    def _json(self, method: str, path: str, **request: Any) -> Any:
        give_up_at = time.monotonic() + TIMEOUT_S
        while True:
            with translated():
                response = self._http.request(method, path, **request)
            try:
                return checked(response).json()
            except ApiError as error:
                if error.document.get("type") != IN_FLIGHT or time.monotonic() > give_up_at:
                    raise
            time.sleep(float(response.headers.get("retry-after", "1")))


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
    raise ApiError(document, status=response.status_code)
