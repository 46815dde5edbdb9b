"""Images that lie elsewhere: fetched at validation, each URL once in an attempt; then their bytes count, not their URL.

They are pinned, by their sha256, when the attempt ends well. What one
fetched that was lost (its worker died, or was told to stop) counts for nothing, and the next fetches everything anew,
perhaps other bytes; a data set is always of one attempt.

The guard sits where the connection is made. For every hop, also of a redirect, the dialler resolves the name once,
refuses unless all its addresses are allowed, and dials one of exactly these addresses; TLS and `Host` still carry the
name. So no answer of a name server that comes later can matter, and no proxy of the environment is asked.
"""

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from email.utils import parsedate_to_datetime
from ssl import SSLContext
from typing import Any

import httpcore2
import httpx2

import core
from ingest.guard import Guard, forbidden, unreachable, without_query
from ingest.issues import FetchFailed, Finding, Rule, shown
from ingest.limits import RemoteLimits
from ingest.share import Share

_REDIRECTS = {301, 302, 303, 307, 308}
_PASSING = {429, 500, 502, 503, 504}
_MAX_ADDRESSES = 3  # of one name, tried in turn
# No `Accept-Encoding` but identity: what is counted is what came, and nothing can inflate behind the count.
_HEADERS = [
    (b"User-Agent", f"lensmith/{core.VERSION}".encode()),
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"identity"),
    (b"Connection", b"close"),
]
_TRY_AGAIN = "Try the URL in a browser; when it answers again, upload the data set again, or put the file itself in."
_LOOK = "Open the URL where you are logged in nowhere; write one that gives the file, or put the file itself in."


class Passing(FetchFailed):
    """A failure that may be over in a moment; `after_s` is how long the server asks to be left alone.

    It pickles as what it is to everybody else, a `FetchFailed`.
    """

    def __init__(self, finding: Finding, *, after_s: float = 0.0) -> None:
        super().__init__(finding)
        self.after_s = after_s


class RemoteImages:
    """Fetches the images of one data set, from any number of threads, within bounds on each and on all.

    Who calls remembers what a URL gave.
    """

    def __init__(
        self, limits: RemoteLimits, *, guard: Guard | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._limits = limits
        self._guard = guard or Guard()
        self._share = Share(limits)
        self._sleep = sleep

    def fetch(self, url: str, *, max_bytes: int) -> bytes:
        """Return what lies at a URL; what may be over in a moment is tried once more, through the guard again.

        Raises:
            FetchFailed: it may not be fetched, does not answer, has more than `max_bytes`, or the data set's share of
                URLs, bytes or seconds is used up.
        """
        with self._share.one_url():
            try:
                return self._read(url, max_bytes)
            except Passing as passing:
                pause_s = min(max(passing.after_s, self._limits.pause_s), self._limits.max_pause_s)
                if pause_s >= self._share.left_s():
                    raise
                self._sleep(pause_s)
            return self._read(url, max_bytes)

    def _read(self, url: str, max_bytes: int) -> bytes:
        data = bytearray()
        seconds = min(self._limits.image_s, self._share.left_s())
        with contextlib.closing(read_url(url, self._guard, seconds=seconds)) as chunks:
            for chunk in chunks:
                data += chunk
                self._share.came(len(chunk))
                if len(data) > max_bytes:
                    raise _too_large(url, max_bytes)
        return bytes(data)


def read_url(
    url: str, guard: Guard, *, seconds: float, idle_s: float = 30.0, max_redirects: int = 5
) -> Generator[bytes, None, None]:
    """Yield the body of a URL as it comes, redirects followed by hand. Close the generator when you leave it early.

    Args:
        url: where to begin.
        guard: what may be fetched; asked again at every hop.
        seconds: for all of it, from the first look into the name server to the last byte.
        idle_s: for any single wait within that.
        max_redirects: hops after the first.

    Raises:
        FetchFailed: a hop is refused, does not answer with 200, or the time is over. Its rule is `url_unreachable` when
            that may pass.
    """
    deadline = _Deadline(seconds, idle_s=idle_s)
    target = guard.parse(url)
    for _ in range(max_redirects + 1):
        try:
            with _get(target, guard, deadline) as response:
                if response.status not in _REDIRECTS:
                    yield from _body(response, url)
                    return
                target = guard.parse(_location(response, target))
        except httpcore2.TimeoutException as error:
            raise _passing(url, f"did not come within {seconds:g} s, or said nothing for {idle_s:g} s") from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            raise _passing(url, f"could not be read ({_reason(error)})") from error
    raise _bad_answer(url, f"leads on more than {max_redirects} times", "Write the URL that it ends at.")


class _Deadline:
    """One moment at which every wait of a fetch ends, however little is awaited: a drip of bytes prolongs nothing."""

    def __init__(self, seconds: float, *, idle_s: float) -> None:
        self._at = time.monotonic() + seconds
        self._idle_s = idle_s

    def left_s(self) -> float:
        left = self._at - time.monotonic()
        if left <= 0:
            raise httpcore2.TimeoutException
        return min(left, self._idle_s)


class _Dialler(httpcore2.NetworkBackend):
    """Connects to a guarded address of the host that it is asked for."""

    def __init__(self, guard: Guard, deadline: _Deadline) -> None:
        self._guard = guard
        self._deadline = deadline
        self._backend = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the deadline is ours
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """Resolve once, check every address, and dial these addresses only.

        Each has an equal share of the time that is left, so that one that swallows everything leaves some for the next.
        """
        failed: httpcore2.ConnectError | httpcore2.ConnectTimeout | None = None
        addresses = self._guard.addresses(host, port)[:_MAX_ADDRESSES]
        for untried, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            share_s = self._deadline.left_s() / untried
            try:
                stream = self._backend.connect_tcp(str(address), port, share_s, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
            else:
                return _Timed(stream, self._deadline)
        assert failed is not None
        raise failed


class _Timed(httpcore2.NetworkStream):
    """A connection whose every operation ends at the deadline."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the deadline is ours
        return self._stream.read(max_bytes, self._deadline.left_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, self._deadline.left_s())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, self._deadline.left_s()), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


@contextlib.contextmanager
def _get(target: httpx2.URL, guard: Guard, deadline: _Deadline) -> Iterator[httpcore2.Response]:
    """Ask one server, over a connection of its own: one certificate, one name, one address."""
    url = httpcore2.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path)
    headers = [(b"Host", target.netloc), *_HEADERS]
    with (
        httpcore2.ConnectionPool(guard.tls, max_connections=1, network_backend=_Dialler(guard, deadline)) as pool,
        pool.stream("GET", url, headers=headers) as response,
    ):
        yield response


def _location(response: httpcore2.Response, base: httpx2.URL) -> str:
    location = _header(response, b"location")
    if "\\" in location or not location.isprintable():
        raise forbidden(location, "is led on to, and holds a backslash or a control character", "Write the final URL.")
    try:
        return str(base.join(location))
    except httpx2.InvalidURL as error:
        raise forbidden(location, "is led on to, and is no URL", "Write the URL that it ends at.") from error


def _body(response: httpcore2.Response, url: str) -> Iterator[bytes]:
    if response.status in _PASSING:
        raise _passing(url, f"answers {response.status}", after_s=_retry_after_s(_header(response, b"retry-after")))
    if response.status != 200:
        raise _bad_answer(url, f"answers {response.status}", _LOOK)
    encoding = _header(response, b"content-encoding")
    if encoding.lower() not in ("", "identity"):
        raise _bad_answer(url, f"answers in the encoding {shown(encoding)}, which was not asked for", _LOOK)
    yield from response.iter_stream()


def _header(response: httpcore2.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200].rstrip(".")


def _retry_after_s(value: str) -> float:
    """Return how long a server asks to be left alone: seconds or a date (RFC 9110, 10.2.3); 0 when it says neither."""
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError, OSError):
        return 0.0


def _passing(url: str, why: str, *, after_s: float = 0.0) -> Passing:
    return Passing(unreachable(url, why, _TRY_AGAIN).finding, after_s=after_s)


def _bad_answer(url: str, why: str, fix: str) -> FetchFailed:
    """Return that a server answered, and that what it said is no file and will not become one."""
    return FetchFailed(Finding(rule=Rule.URL_BAD_ANSWER, message=f"{shown(without_query(url))} {why}.", fix=fix))


def _too_large(url: str, max_bytes: int) -> FetchFailed:
    message, fix = (
        f"{shown(without_query(url))} has more than {max_bytes:,} bytes.",
        "Save the image smaller, or as JPEG.",
    )
    return FetchFailed(Finding(rule=Rule.IMAGE_TOO_LARGE, message=message, fix=fix))
