"""Uploads in parts when something breaks: the connection in the middle of a part, the API itself. A server of its own."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from core.process import free_port
from tests.conftest import wait_for
from tests.integration.conftest import colours

PART = 20_000_000  # a half of it is more than the writer of an object holds back in memory
HEAD = "PUT /uploads/{}/parts/{} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n"


@pytest.fixture
def data():
    """Two parts and a bit."""
    return os.urandom(2 * PART) + colours(12)


@pytest.fixture
def api(settings, api_database):
    """A function that starts an API as a process of its own on the settings' data; killed at the end."""
    started, port = [], free_port()
    environment = os.environ | {
        "LENSMITH_DATA_DIR": str(settings.data_dir),
        "LENSMITH_PORT": str(port),
        "LENSMITH_REDIS_URL": settings.redis_url,
        "LENSMITH_UPLOAD_PART_BYTES": str(PART),
        "TMPDIR": str(settings.data_dir),
    }

    def start() -> tuple[subprocess.Popen, httpx2.Client]:
        log = (settings.data_dir / "api.log").open("ab")
        process = subprocess.Popen([sys.executable, "-m", "api.main"], env=environment, stdout=log, stderr=log)
        client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
        started.append((process, client, log))
        wait_for(lambda: is_up(client), what="the API")
        return process, client

    yield start
    for process, client, log in started:
        client.close()
        process.kill()
        process.wait()
        log.close()


def is_up(client) -> bool:
    try:
        return client.get("/healthz").is_success
    except httpx2.TransportError:
        return False


def stored(settings) -> list[Path]:
    """Return every object, the temporary ones and those that are being written as well."""
    return [path for path in settings.layout.storage.rglob("*") if path.is_file()]


def begin(client, data) -> str:
    return client.post("/uploads", json={"filename": "a.jsonl", "size_bytes": len(data)}).json()["id"]


def put(client, upload_id, number, data):
    answer = client.put(f"/uploads/{upload_id}/parts/{number}", content=data[(number - 1) * PART : number * PART])
    assert answer.status_code == 200, answer.text


@contextmanager
def half_sent(client, upload_id, number, data):
    """A connection on which half of a part came, and then nothing more."""
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(HEAD.format(upload_id, number, PART).encode() + data[: PART // 2])
        yield connection


def numbers(client, upload_id) -> list[int]:
    return [part["number"] for part in client.get(f"/uploads/{upload_id}").json()["parts"]]


def resume(client, upload_id, data) -> dict:
    """Send what is missing, as a client does that only knows the id."""
    upload = client.get(f"/uploads/{upload_id}").json()
    for number in set(range(1, upload["num_parts"] + 1)) - {part["number"] for part in upload["parts"]}:
        put(client, upload_id, number, data)
    return client.get(f"/uploads/{upload_id}").json()


def test_a_connection_that_breaks_in_a_part_leaves_nothing_and_the_rest_goes_on(api, settings, data):
    _, client = api()
    upload_id = begin(client, data)
    put(client, upload_id, 1, data)
    before = stored(settings)
    with half_sent(client, upload_id, 2, data):
        wait_for(lambda: len(stored(settings)) > len(before), what="the half of a part")
    wait_for(lambda: stored(settings) == before, what="the removal of the half of a part")
    assert numbers(client, upload_id) == [1]
    assert resume(client, upload_id, data)["received_bytes"] == len(data)
    log = (settings.data_dir / "api.log").read_text()
    assert "request failed" not in log  # a client that leaves is nothing that broke


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_an_upload_goes_on_after_the_api_was_started_anew(api, settings, data, signum):
    process, client = api()
    upload_id = begin(client, data)
    for number in (3, 1):
        put(client, upload_id, number, data)
    with half_sent(client, upload_id, 2, data):
        wait_for(lambda: len(stored(settings)) > 2, what="the half of a part")
        process.send_signal(signum)
        process.wait(timeout=20)  # a part that does not come on does not hold the exit
    if signum == signal.SIGTERM:
        assert len(stored(settings)) == 2
    _, client = api()
    assert numbers(client, upload_id) == [1, 3]
    upload = resume(client, upload_id, data)
    assert [part["sha256"] for part in upload["parts"]] == [
        hashlib.sha256(data[start : start + PART]).hexdigest() for start in range(0, len(data), PART)
    ]


def test_a_resumed_upload_becomes_the_data_set(api, data):
    process, client = api()
    data = b'{"question": "Which?", "answer": "This."}\n' * (PART // 20)
    upload_id = begin(client, data)
    put(client, upload_id, 2, data)
    process.kill()
    process.wait()
    _, client = api()
    resume(client, upload_id, data)
    made = client.post("/datasets", json={"upload": upload_id})
    assert (made.status_code, made.json()["sha256"]) == (202, hashlib.sha256(data).hexdigest())
