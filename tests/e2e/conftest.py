"""The whole service as a user starts it: `lensmith up` in a process, on SQLite and on PostgreSQL."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.process import free_port
from lensmith import Client
from tests.conftest import wait_for
from tests.processes import below

LENSMITH = str(Path(sys.executable).with_name("lensmith"))


@dataclass
class Service:
    """A running service."""

    url: str
    data_dir: Path
    process: subprocess.Popen
    output: Path

    def descendants(self) -> list[int]:
        """Return the process ids of every part and of what the parts started."""
        return below(self.process.pid)

    def stop(self, signum=signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        return self.process.wait(timeout=40)


def start(data_dir: Path, *, port: int | None = None, **environment: str) -> Service:
    """Start `lensmith up` and wait until it says that it is up."""
    port = port or free_port()
    output = data_dir.parent / f"{data_dir.name}.out"
    with output.open("wb") as out:
        process = subprocess.Popen(
            [LENSMITH, "up", "--port", str(port), "--data-dir", str(data_dir)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"LENSMITH_SWEEP_S": "1"} | environment,
        )
    try:
        wait_for(
            lambda: "is up" in output.read_text() or process.poll() is not None, within_s=90, what="the service's start"
        )
        assert process.poll() is None, output.read_text()
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Service(url=f"http://127.0.0.1:{port}", data_dir=data_dir, process=process, output=output)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def service(request, tmp_path_factory) -> Iterator[Service]:
    """One service per database, shared by the tests of a module."""
    environment = {}
    if request.param == "postgres":
        environment["LENSMITH_DATABASE_URL"] = request.getfixturevalue("module_postgres")
    running = start(tmp_path_factory.mktemp("e2e") / "data", **environment)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def module_postgres(postgres_url) -> Iterator[str]:
    """A database of its own for one module."""
    import sqlalchemy as sa

    admin = sa.create_engine(
        postgres_url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.execute(sa.text("CREATE DATABASE e2e"))
    yield postgres_url.replace("/postgres?", "/e2e?")
    with admin.connect() as connection:
        connection.execute(sa.text("DROP DATABASE e2e WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def client(service) -> Iterator[Client]:
    """The SDK, pointed at the service."""
    with Client(service.url) as opened:
        yield opened
