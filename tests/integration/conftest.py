"""A whole API in this process, over a real database and a real broker."""

import io
import json
import threading
import zipfile

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from api.app import create_app
from core.db import Database
from core.settings import Settings
from models import dataset as datasets
from models.leases import Claim
from models.states import Kind
from models.work import Work
from ops.migrate import upgrade
from worker.attempt import Attempt
from worker.child import ChildProcess
from worker.kinds import Rooms
from worker.lease import Lease
from worker.sources import Sources
from worker.validation import Validation


@pytest.fixture
def client_database_url(request, settings) -> str:
    """Where the API under test keeps its rows: SQLite, unless the test says `postgres` for its `client`."""
    params = getattr(request.node, "callspec", None)
    wanted = params.params.get("client", "sqlite") if params else "sqlite"
    return request.getfixturevalue("new_postgres") if wanted == "postgres" else settings.resolved_database_url


@pytest.fixture
def api_database(client_database_url):
    """The database of the API under test, migrated."""
    database = Database(client_database_url)
    upgrade(database)
    yield database
    database.close()


@pytest.fixture
def client(settings, api_database):
    """A client of the API; under the name that a loopback server has."""
    there = settings.model_copy(update={"database_url": api_database.url})
    with TestClient(create_app(there), base_url="http://localhost", raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def ready_dataset(api_database) -> str:
    """A data set that a worker has found good."""
    with api_database.write() as session:
        session.add(Work(id="ds_ready", kind=Kind.VALIDATION, queue="cpu", state="succeeded"))
        session.flush()
        session.add(
            datasets.Dataset(
                id="ds_ready",
                name="colours",
                filename="c.zip",
                container="zip",
                upload_sha256="0" * 64,
                upload_bytes=1,
                digest="d" * 64,
            )
        )
    return "ds_ready"


def validation_of(rooms: Rooms, settings: Settings) -> Validation:
    """Return validation as a worker runs it."""
    return Validation(rooms, Sources(settings), remote_images=settings.remote_images)


def attempt_of(claim: Claim, database: Database, settings: Settings) -> Attempt:
    """Return an attempt whose lease nobody keeps and nobody loses."""
    lease = Lease(database, claim, lease_s=60, heartbeat_s=10)
    return Attempt(lease, database=database, settings=settings, shutdown=threading.Event())


def zip_of(members: dict[str, bytes]) -> bytes:
    """Return a zip with these members; the same members always give the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def colours(count: int) -> bytes:
    """Return a small, good data set: plain pictures and the name of their colour."""
    members, lines = {}, []
    for number in range(count):
        picture = io.BytesIO()
        word = ("red", "green", "blue")[number % 3]
        Image.new("RGB", (48, 48), word).point(lambda value, n=number: max(0, value - n)).save(picture, "PNG")
        members[f"images/{number}.png"] = picture.getvalue()
        lines.append(json.dumps({"image": f"images/{number}.png", "question": "Which colour?", "answer": word}))
    return zip_of(members | {"data.jsonl": "\n".join(lines).encode()})


@pytest.fixture
def children(monkeypatch):
    """The children that were started, each with the `spec` that it was told."""
    started, begin = [], ChildProcess.__init__

    def remember(self, module, **asked):
        begin(self, module, **asked)
        self.spec = asked["spec"]
        started.append(self)

    monkeypatch.setattr(ChildProcess, "__init__", remember)
    return started


@pytest.fixture
def objects(settings):
    """A function that returns the keys of every object that is stored."""
    root = settings.layout.storage
    return lambda: sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
