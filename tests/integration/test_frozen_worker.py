"""A worker that stands still until its lease is gone, and then wakes: it writes no row and no object any more."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.queue import Doorbell, Queue, make_celery
from models import worker as workers
from models.states import WorkState
from tests.conftest import is_alive, wait_for
from tests.integration.test_checkpoints import World

LEASE_S = 3.0


@pytest.fixture
def world(settings):
    made = World(settings)
    yield made
    made.database.close()


@contextmanager
def worker(world, log: Path):
    """A real worker process for the gpu queue."""
    environment = os.environ | {
        "LENSMITH_DATA_DIR": str(world.settings.data_dir),
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


def children_of(pid: int) -> list[int]:
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (thread / "children").read_text().split())
    return found


def everything(world):
    """Return every row of every table, and every object with its bytes."""
    rows = {}
    with world.database.read() as session:
        for name in sorted(sa.inspect(session.connection()).get_table_names()):
            if name != workers.Worker.__tablename__:  # whoever lives says so
                rows[name] = sorted(map(repr, session.execute(sa.text(f"SELECT * FROM {name}")).all()))
    objects = {key: world.storage.read(key) for key in world.storage.keys("") if not key.startswith("staging/")}
    return rows, objects


@pytest.mark.parametrize("moment", ["while it trains", "while it publishes"])
def test_a_worker_that_was_frozen_past_its_lease_changes_nothing_when_it_wakes(world, tmp_path, moment, monkeypatch):
    job_id = world.submit()
    with worker(world, tmp_path / "frozen.log") as frozen:
        wanted = "training" if moment == "while it trains" else "publishing"
        wait_for(lambda: world.look(job_id).phase == wanted, what=wanted)
        if moment == "while it trains":
            wait_for(lambda: world.saved(job_id), what="a checkpoint")
        children = children_of(frozen.pid)
        frozen.send_signal(signal.SIGSTOP)
        if world.look(job_id).state is not WorkState.RUNNING:
            pytest.fail("it was faster than the test")
        with worker(world, tmp_path / "other.log") as other:
            wait_for(lambda: world.look(job_id).attempt == 2, what="the other worker's claim")
            assert not [pid for pid in children if is_alive(pid)], "its child was dead before the other began"
            wait_for(lambda: world.look(job_id).state is WorkState.SUCCEEDED, what="the other worker's end")
            other.terminate()
            other.wait()
        before = everything(world)
        frozen.send_signal(signal.SIGCONT)
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), what="the end of its attempt")
        again = world.submit()
        world.ends(again)  # it has come to itself, and works
        assert world.attempts(again)[0].worker_id == world.attempts(job_id)[0].worker_id
        after = everything(world)
    assert before[1].items() <= after[1].items()
    assert not [key for key in after[1].keys() - before[1].keys() if job_id in key]
    assert [[row for row in rows if again not in row] for rows in after[0].values()] == list(before[0].values())
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
