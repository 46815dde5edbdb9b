"""Followers over real sockets: one that never reads is dropped, a wake-up arrives before the tick, and without a broker the tick does."""

import socket
import threading

import httpx2
import pytest

from api import connection
from api.jobs import hub as hubs
from api.jobs import tail
from core.process import free_port
from core.wakeups import CHANNEL, Publisher
from models import leases
from models.states import WorkState
from tests.conftest import wait_for
from tests.integration.jobs import run_job, say
from tests.integration.serving_api import serving

BIG = "x" * 20_000


@pytest.fixture
def served(settings, api_database):
    with serving(settings) as running:
        yield running


class Reader(threading.Thread):
    """Reads a stream to its end."""

    def __init__(self, served, job_id="job_1", **headers):
        super().__init__(daemon=True)
        self.seqs = []
        self.ended = False
        self._url = f"{served.url}/jobs/{job_id}/logs?follow=true"
        self._headers = headers
        self.start()

    def run(self):
        with httpx2.stream("GET", self._url, headers=self._headers, timeout=120, trust_env=False) as answer:
            for line in answer.iter_lines():
                self.ended |= line == "event: end"
                if line.startswith("id: "):
                    self.seqs.append(int(line[4:]))


def open_and_never_read(served, job_id="job_1") -> socket.socket:
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    opened.settimeout(60)
    opened.connect(served.address)
    opened.sendall(f"GET /jobs/{job_id}/logs?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return opened


def is_reset(client: socket.socket) -> bool:
    """Read what is left; tell whether the server cut it off rather than ending it."""
    try:
        while client.recv(1 << 20):
            pass
    except ConnectionResetError:
        return True
    return False


def test_a_client_that_never_reads_is_dropped_and_comes_back_where_it_was(served, api_database, monkeypatch):
    monkeypatch.setattr(connection, "SEND_S", 0.3)
    monkeypatch.setattr(tail, "TAIL_BYTES", 500_000)
    claim = run_job(api_database)
    deaf = open_and_never_read(served)
    reader = Reader(served)
    tails = served.services.hub._tails
    wait_for(lambda: "job_1" in tails and len(tails["job_1"].places) == 2, what="both followers")
    sent = 2
    biggest = 0

    def deaf_is_gone():
        nonlocal sent, biggest
        say(api_database, "job_1", *[BIG] * 10)
        sent += 10
        wait_for(lambda: reader.seqs[-1:] == [sent], what="the item at the one that reads")
        biggest = max(biggest, tails["job_1"]._size_bytes)
        return len(tails["job_1"].places) == 1

    wait_for(deaf_is_gone, what="the deaf one to be dropped")
    assert biggest <= 500_000 + 10 * 21_000
    with api_database.write() as session:
        leases.finish(session, claim, WorkState.SUCCEEDED)
    reader.join(60)
    assert reader.seqs == list(range(1, sent + 2))
    assert reader.ended
    assert is_reset(deaf)
    deaf.close()
    back = Reader(served, **{"Last-Event-ID": "7"})
    back.join(60)
    assert back.seqs == list(range(8, sent + 2))


def test_a_client_that_reads_slowly_but_reads_is_kept(served, api_database, monkeypatch):
    monkeypatch.setattr(connection, "SEND_S", 0.5)
    claim = run_job(api_database)
    say(api_database, "job_1", *[BIG] * 300)
    slow = open_and_never_read(served)
    got = b""
    pause = threading.Event()
    while b'"seq":250,' not in got:
        got = got[-100:] + slow.recv(1 << 17)
        pause.wait(0.02)
    with api_database.write() as session:
        leases.finish(session, claim, WorkState.SUCCEEDED)
    while b"event: end" not in got:
        piece = slow.recv(1 << 17)
        assert piece, "closed without an end"
        got = got[-100:] + piece
    slow.close()


def test_a_wake_up_brings_an_item_long_before_the_tick(settings, api_database, monkeypatch):
    monkeypatch.setattr(hubs, "TICK_S", 3600.0)
    claim = run_job(api_database)
    publisher = Publisher(settings.redis_url)
    with serving(settings) as served:
        reader = Reader(served)
        wait_for(lambda: reader.seqs == [1, 2])
        wait_for(lambda: served.services.hub._tails["job_1"].head_seq == 2, what="the first look")
        wait_for(lambda: num_listeners(settings) == 1, what="the listener")
        say(api_database, "job_1", "three")
        publisher.publish("job_1")
        wait_for(lambda: reader.seqs == [1, 2, 3], within_s=60)
        with api_database.write() as session:
            leases.finish(session, claim, WorkState.SUCCEEDED)
        publisher.publish("job_1")
        reader.join(60)
        assert reader.ended
    publisher.close()


def num_listeners(settings):
    import redis

    with redis.Redis.from_url(settings.redis_url) as client:
        return dict(client.pubsub_numsub(CHANNEL))[CHANNEL.encode()]


def test_with_a_dead_broker_the_tick_brings_it(settings, api_database):
    claim = run_job(api_database)
    nowhere = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{free_port()}/0"})
    publisher = Publisher(nowhere.redis_url)
    with serving(nowhere) as served:
        reader = Reader(served)
        wait_for(lambda: reader.seqs == [1, 2])
        say(api_database, "job_1", "three")
        publisher.publish("job_1")
        wait_for(lambda: reader.seqs == [1, 2, 3], within_s=60)
        with api_database.write() as session:
            leases.finish(session, claim, WorkState.SUCCEEDED)
        reader.join(60)
        assert reader.ended
    publisher.close()


def test_streams_end_when_the_server_stops_while_clients_follow(settings, api_database):
    run_job(api_database)
    with serving(settings) as served:
        readers = [Reader(served) for _ in range(20)]
        wait_for(lambda: all(reader.seqs == [1, 2] for reader in readers))
        served.stopping()
    for reader in readers:
        reader.join(30)
        assert not reader.is_alive()
        assert not reader.ended
