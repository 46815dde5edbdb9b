"""A real HTTPS server on loopback for the tests of what is fetched; its names exist only in the test's resolver."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

from ingest.guard import Guard, is_global
from ingest.limits import RemoteLimits
from ingest.remote import RemoteImages

CERTIFICATE = Path(__file__).with_name("images_test.pem")  # of images.test and other.test; its key is no secret
LOOPBACK = ip_address("127.0.0.1")
LONG_S = 60.0  # never waited for

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Elsewhere:
    """A server: what it answers by path, and what it was asked. `released` ends the answers that wait for it."""

    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    sni: list[str | None] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str, host: str = "images.test", scheme: str = "https") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def gives(self, path: str, data: bytes, *, status: int = 200, **headers: str) -> str:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(data)

        self.answers[path] = answer
        return self.url(path)

    def leads(self, path: str, to: str, *, status: int = 302) -> str:
        return self.gives(path, b"", status=status, Location=to)

    def guard(self, names: dict[str, list[str]] | None = None, **other) -> Guard:
        """Return the service's guard, but with names of our own, and this server counts as global."""
        known = {"images.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]} | (names or {})
        defaults = {
            "resolve": lambda host, _port: [ip_address(address) for address in known[host]],
            "is_allowed": lambda address: address == LOOPBACK or is_global(address),
            "tls": ssl.create_default_context(cafile=CERTIFICATE),
        }
        return Guard(**(defaults | other))


@contextmanager
def serving(*, tls: bool = True) -> Iterator[Elsewhere]:
    """Serve until the block ends."""
    there = Elsewhere()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            there.asked.append(self.path)
            there.hosts.append(self.headers["Host"])
            there.answers[self.path](self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # clients that hang up are what these tests are about
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        context.sni_callback = lambda _socket, name, _context: there.sni.append(name)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    there.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield there
    finally:
        there.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def images(guard: Guard, **limits: float) -> RemoteImages:
    """Return what fetches pictures, in no hurry and without pauses."""
    return RemoteImages(RemoteLimits(**{"image_s": LONG_S, "pause_s": 0} | limits), guard=guard)
