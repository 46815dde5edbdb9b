"""An object store that speaks as much S3 as we use, keeps objects in memory, and holds back or loses an answer when a test says so.

So a worker can be stopped in the middle of a request, where a local folder would be faster than any test.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
_DATE = "Wed, 25 Nov 2026 08:00:00 GMT"
LONGEST_S = 120.0


@dataclass
class Held:
    """One request whose answer waits: `came` is set when it is done; when `released` is, its answer goes out, or is lost."""

    pattern: re.Pattern[str]
    is_lost: bool
    came: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


class Store:
    """The objects by key, and every change in its order as `PUT key` or `DELETE key`; a copy is a PUT of its target."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.changes: list[str] = []
        self._held: Held | None = None
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """Return what makes our servers use it."""
        return {
            "LENSMITH_STORAGE_URL": f"s3://{BUCKET}",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_SKIP_SIGNATURE": "true",
        }

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @contextmanager
    def holding(self, pattern: str, *, is_lost: bool = False) -> Iterator[Held]:
        """Hold the answer to the first change of a key that matches, until the block ends; then send it, or lose it."""
        held = self._held = Held(re.compile(pattern), is_lost)
        try:
            yield held
        finally:
            self._held = None
            held.released.set()

    def change(self, key: str, data: bytes | None) -> bool:
        """Put or remove an object, and hold the caller if a test wants that; False: it gets no answer."""
        with self._lock:
            if data is None:
                self.objects.pop(key, None)
            else:
                self.objects[key] = data
            self.changes.append(f"{'DELETE' if data is None else 'PUT'} {key}")
            held = self._held
            if held is None or held.came.is_set() or held.pattern.search(key) is None:
                return True
            held.came.set()
        held.released.wait(LONGEST_S)
        return not held.is_lost


class _Handler(BaseHTTPRequestHandler):
    store: Store
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_PUT(self) -> None:
        data, source = self._body(), self.headers.get("x-amz-copy-source")
        if source is None:
            self._change(data, etag=_etag(data))
            return
        copied = self.store.objects.get(unquote(source).removeprefix("/").partition("/")[2])
        if copied is None:
            self._missing()
            return
        self._change(copied, f"<CopyObjectResult><ETag>{_etag(copied)}</ETag></CopyObjectResult>".encode())

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._answer(200, self._listed(query.get("prefix", [""])[0]))
            return
        data = self.store.objects.get(self._key())
        if data is None:
            self._missing()
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if asked is None:
            self._answer(200, data, etag=_etag(data))
            return
        start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        part = f"bytes {start}-{end}/{len(data)}"
        self._answer(206, data[start : end + 1], etag=_etag(data), content_range=part)

    def do_HEAD(self) -> None:
        data = self.store.objects.get(self._key())
        if data is None:
            self._missing()
        else:
            self._answer(200, data, etag=_etag(data))

    def do_DELETE(self) -> None:
        self.store.change(self._key(), None)
        self._answer(204)

    def do_POST(self) -> None:
        """Remove several objects; there is no other POST here: what is stored in parts is larger than a test's."""
        keys = [unquote(key) for key in re.findall(r"<Key>(.*?)</Key>", self._body().decode())]
        for key in keys:
            self.store.change(key, None)
        told = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{told}</DeleteResult>".encode())

    def _change(self, data: bytes, answer: bytes = b"", **headers: str) -> None:
        if self.store.change(self._key(), data):
            self._answer(200, answer, **headers)
        else:
            self.close_connection = True

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}/")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _listed(self, prefix: str) -> bytes:
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-25T08:00:00.000Z</LastModified>"
            f"<ETag>{_etag(data)}</ETag><Size>{len(data)}</Size></Contents>"
            for key, data in sorted(self.store.objects.items())
            if key.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()

    def _missing(self) -> None:
        self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def _answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"last-modified": _DATE, "content-length": f"{len(data)}"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _etag(data: bytes) -> str:
    return f'"{md5(data, usedforsecurity=False).hexdigest()}"'
