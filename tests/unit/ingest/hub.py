"""A Hub on loopback: the calls of its API that `huggingface_hub` and `datasets` make, over repositories in memory."""

import hashlib
import json
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

NAME = "org/name"

_API = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info|auth-check)(?:/(.*))?)?")
_FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.*)")


@dataclass
class Repository:
    """A data set on the Hub: the files of every commit, and what its branches stand for."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.branches.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None


@dataclass
class Hub:
    """The server: its repositories, the token that opens them, and what it was asked.

    After `lives_for` questions it answers every further one with `status`, or hangs up when that is None.
    """

    port: int = 0
    token: str = "hf_right"
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    slow: set[str] = field(default_factory=set)
    released: threading.Event = field(default_factory=threading.Event)
    status: int | None = None
    lives_for: float = math.inf

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def commit(self, name: str, files: dict[str, bytes], *, branch: str = "main", **flags: bool) -> str:
        """Put files into a repository and return the commit."""
        repository = self.repositories.setdefault(name, Repository())
        for flag, value in flags.items():
            setattr(repository, flag, value)
        number = f"{name}{branch}{len(repository.commits)}"
        commit = hashlib.sha1(number.encode()).hexdigest()
        repository.commits[commit] = files
        repository.branches[branch] = commit
        return commit


class _Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        self.hub.tokens.add(self.headers.get("Authorization"))
        if len(self.hub.asked) > self.hub.lives_for:
            if self.hub.status is None:
                self.close_connection = True
            else:
                self._send(b"{}", status=self.hub.status, X_Error_Code="Ill")
            return
        try:
            self._route(path, body)
        except _Refused as refused:
            self._send(b"{}", status=refused.status, X_Error_Code=refused.code)

    def _route(self, path: str, body: bytes) -> None:
        if found := _API.fullmatch(path):
            self._api(*found.groups(), asked=body)
        elif found := _FILE.fullmatch(path):
            self._file(*found.groups())
        else:
            raise _Refused(404, "EntryNotFound")

    def _repository(self, name: str, *, content: bool) -> Repository:
        known = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not known):
            raise _Refused(401 if not known else 404, "RepoNotFound")
        if repository.gated and content and not known:
            raise _Refused(401, "GatedRepo")
        return repository

    def _api(self, name: str, what: str | None, rest: str | None, *, asked: bytes) -> None:
        repository = self._repository(name, content=what == "auth-check")
        if what == "auth-check":
            self._send(b"{}")
            return
        revision, _, folder = (
            (rest or "main").partition("/") if what in {"tree", "paths-info"} else (rest or "main", "", "")
        )
        found = repository.files(revision)
        if found is None:
            raise _Refused(404, "RevisionNotFound")
        commit, files = found
        if what in {None, "revision"}:
            siblings = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
            answer = {"id": name, "sha": commit, "siblings": siblings, "private": repository.private}
            answer |= {"gated": "manual" if repository.gated else False, "disabled": False, "tags": [], "downloads": 0}
            self._send(json.dumps(answer).encode())
        elif what == "tree":
            entries = _entries(files, folder)
            if folder and not entries:
                raise _Refused(404, "EntryNotFound")
            self._send(json.dumps(entries).encode())
        else:
            wanted = json.loads(asked)["paths"]
            entries = {entry["path"]: entry for entry in _entries(files, "")}
            self._send(json.dumps([entries[path] for path in wanted if path in entries]).encode())

    def _file(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name, content=True)
        found = repository.files(revision)
        if found is None:
            raise _Refused(404, "RevisionNotFound")
        commit, files = found
        if path not in files:
            raise _Refused(404, "EntryNotFound")
        if path in self.hub.slow:
            self.hub.released.wait()
            raise _Refused(503, "Slow")
        data, status, headers = files[path], 200, {"X_Repo_Commit": commit, "ETag": f'"{_oid(files[path])}"'}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(wanted[1]), int(wanted[2] or len(data) - 1)
            if start >= len(data):
                raise _Refused(416, "Range")
            headers["Content_Range"] = f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}"
            data, status = data[start : end + 1], 206
        self._send(data, status=status, **headers)

    def _send(self, data: bytes, *, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _entries(files: dict[str, bytes], folder: str) -> list[dict[str, object]]:
    """Return everything below a folder, the folders too, as the Hub lists a tree."""
    prefix = f"{folder}/" if folder else ""
    below = {path: data for path, data in files.items() if path.startswith(prefix)}
    folders = {path.rpartition("/")[0] for path in below} - {"", folder}
    for path in list(folders):
        while path := path.rpartition("/")[0]:
            if path != folder:
                folders.add(path)
    found: list[dict[str, object]] = [
        {"type": "directory", "path": path, "oid": _oid(path.encode()), "size": 0} for path in sorted(folders)
    ]
    found += [{"type": "file", "path": path, "oid": _oid(data), "size": len(data)} for path, data in below.items()]
    return found


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """Serve until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    server.handle_error = lambda *_: None
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
