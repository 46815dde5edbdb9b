"""A worker that stands still until its lease is gone, and then wakes: it writes no row and no object any more.

The moments are exact: the store holds the answer to one change, and the worker is stopped while it waits for that answer.
"""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.queue import Doorbell, Queue, make_celery
from core.storage import STAGING_PREFIX
from models import worker as workers
from models.states import WorkState
from tests.conftest import wait_for
from tests.integration.test_checkpoints import REQUEST, World
from tests.processes import children_of, is_alive
from tests.soak.store import Store

LEASE_S = 3.0
LONG = {"hyperparameters": REQUEST["hyperparameters"] | {"epochs": 30}}  # its child trains when the lease ends
OTHER = {  # short, and its adapter has other names than that of the frozen one
    "method": REQUEST["method"] | {"r": 2},
    "hyperparameters": REQUEST["hyperparameters"] | {"epochs": 1},
}


@pytest.fixture
def store(monkeypatch):
    made = Store()
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    made.close()


@pytest.fixture
def world(request, settings, store):
    kind = getattr(request, "param", "sqlite")
    url = request.getfixturevalue("new_postgres") if kind == "postgres" else settings.resolved_database_url
    places = {"storage_url": store.environment["LENSMITH_STORAGE_URL"], "database_url": url}
    made = World(settings.model_copy(update=places))
    yield made
    made.database.close()


@contextmanager
def worker(world, log: Path):
    """A real worker process for the gpu queue."""
    environment = os.environ | {
        "LENSMITH_DATA_DIR": str(world.settings.data_dir),
        "LENSMITH_DATABASE_URL": world.settings.database_url,
        "LENSMITH_REDIS_URL": world.settings.redis_url,
        "LENSMITH_LEASE_S": f"{LEASE_S}",
        "LENSMITH_HEARTBEAT_S": "0.4",
        "LENSMITH_POLL_S": "0.2",
        "LENSMITH_SWEEP_S": "0.5",
        "LENSMITH_STOP_ASK_S": "20",
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.main", "--queue", "gpu"], env=environment, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def rows_of(world, *, but: str = "nobody"):
    """Return every row of every table but those of one job, and but who lives, which whoever lives says."""
    found = set()
    with world.database.read() as session:
        for name in sorted(sa.inspect(session.connection()).get_table_names()):
            if name != workers.Worker.__tablename__:
                rows = session.execute(sa.text(f"SELECT * FROM {name}")).all()
                found |= {f"{name} {row}" for row in rows if but not in repr(row)}
    return found


def prefix_of(world, job_id) -> str:
    """Return the prefix of the objects of a job's adapter."""
    with world.database.read() as session:
        query = sa.text("SELECT project || '/adapters/' || sha256 FROM adapter WHERE job_id = :job_id")
        return session.execute(query, {"job_id": job_id}).scalar_one()


def is_tidy(world, job_id) -> bool:
    """Tell whether the sweep has removed the checkpoints of a job that succeeded: nobody else changes it any more."""
    return not world.saved(job_id)


@pytest.mark.parametrize(
    ("world", "held_key", "is_lost", "request_of_it"),
    [
        pytest.param(
            "postgres", "/checkpoints/.*/manifest.json$", False, LONG, id="while it trains and stores a checkpoint"
        ),
        pytest.param("sqlite", "/adapters/.*/adapter_config.json$", False, {}, id="while it stores its adapter"),
        pytest.param(
            "sqlite", "/adapters/.*/adapter_config.json$", True, {}, id="while an answer of the store is lost"
        ),
        pytest.param(
            "postgres", "/adapters/.*/manifest.json$", False, {}, id="when its adapter is stored and its row is not"
        ),
    ],
    indirect=["world"],
)
def test_a_worker_that_was_frozen_past_its_lease_changes_nothing_when_it_wakes(
    world, store, tmp_path, held_key, is_lost, request_of_it
):
    job_id = world.submit(**request_of_it)
    with worker(world, tmp_path / "frozen.log") as frozen:
        with store.holding(held_key, is_lost=is_lost) as held:
            wait_for(held.came.is_set, what=f"a change of {held_key}")
            children = children_of(frozen.pid)
            frozen.send_signal(signal.SIGSTOP)
            wait_for(lambda: is_stopped(frozen.pid), what="the standstill")
        assert world.look(job_id).state is WorkState.RUNNING
        with worker(world, tmp_path / "other.log") as other:
            wait_for(lambda: world.look(job_id).attempt == 2, what="the other worker's claim")
            assert not [pid for pid in children if is_alive(pid)], "its child lived when the other worker began"
            wait_for(lambda: world.look(job_id).state is WorkState.SUCCEEDED, what="the other worker's end")
            wait_for(lambda: is_tidy(world, job_id), what="the sweep of its checkpoints")
            other.terminate()
            other.wait()
        rows, objects, changes = rows_of(world), dict(store.objects), len(store.changes)
        frozen.send_signal(signal.SIGCONT)
        again = world.submit(**OTHER)
        world.ends(again)  # so it has done with what it was at, and works
        assert [each.worker_id for each in world.attempts(again)] == [world.attempts(job_id)[0].worker_id]
        wait_for(lambda: is_tidy(world, again), what="the sweep of its own checkpoints")
        frozen.terminate()
        frozen.wait()
    assert rows_of(world, but=again) ^ rows == set()
    theirs = (f"default/jobs/{again}/", f"{prefix_of(world, again)}/")
    changed = [change for change in store.changes[changes:] if not change.partition(" ")[2].startswith(theirs)]
    assert [change for change in changed if f" {STAGING_PREFIX}/" not in change] == []
    left = {key: data for key, data in store.objects.items() if not key.startswith(theirs)}
    assert left == {key: data for key, data in objects.items() if not key.startswith(f"{STAGING_PREFIX}/")}
    assert [each.outcome for each in world.attempts(job_id)] == ["worker_lost", "succeeded"]


def test_two_workers_and_doubled_messages_run_a_job_once(world, tmp_path):
    doorbell = Doorbell(make_celery(world.settings.redis_url, sweep_s=60))
    with worker(world, tmp_path / "1.log"), worker(world, tmp_path / "2.log"):
        job_id = world.submit()
        for _ in range(10):
            doorbell.ring(Queue.GPU, job_id)
        world.ends(job_id)
        for _ in range(10):
            doorbell.ring(Queue.GPU, job_id)
        again = world.submit()
        world.ends(again)
    assert [len(world.attempts(each)) for each in (job_id, again)] == [1, 1]
