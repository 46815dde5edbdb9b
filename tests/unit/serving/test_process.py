"""The real process: started, asked, stopped."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import pytest

from core.process import PARENT_PID_VARIABLE, free_port

START_S = 60
STOP_S = 10  # on a loaded machine; alone it takes a fraction of a second


@pytest.fixture
def process(request, world):
    port = free_port()
    environment = os.environ | {
        "LENSMITH_DATA_DIR": str(world.root),
        "OMP_NUM_THREADS": "1",
        PARENT_PID_VARIABLE: str(os.getpid()),
    }
    environment |= getattr(request, "param", {})
    child = subprocess.Popen(
        [sys.executable, "-m", "serving.main", "--port", str(port)], env=environment, stderr=subprocess.PIPE
    )
    try:
        wait_until_up(child, port)
        yield child, port
    finally:
        child.kill()
        child.communicate()


def connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)


def wait_until_up(child: subprocess.Popen, port: int) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert child.poll() is None, child.stderr.read().decode()
        try:
            assert health(port)["status"] == "up"
        except ConnectionError:
            continue
        return
    pytest.fail("the process did not come up")


def health(port: int) -> dict:
    with closing(connect(port)) as connection:
        connection.request("GET", "/healthz")
        return json.loads(connection.getresponse().read())


def open_stream(port: int, ask) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """Return a stream of 900 tokens after its first line."""
    connection = connect(port)
    body = json.dumps(ask(max_tokens=900, stream=True))
    connection.request("POST", "/generate", body, {"content-type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200
    assert "delta" in json.loads(response.readline())
    return connection, response


def test_an_idle_process_exits_on_sigterm(process):
    child, _ = process
    child.terminate()
    assert child.wait(STOP_S) in (0, -signal.SIGTERM)


def test_a_process_with_an_open_stream_exits_on_sigterm_and_tells_the_client(process, ask):
    child, port = process
    connection, response = open_stream(port, ask)
    with closing(connection):
        child.terminate()
        *_, last = response.read().splitlines()
    assert json.loads(last)["error"]["status"] == 503
    assert child.wait(STOP_S) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("process", [{"LENSMITH_STORAGE_URL": "nowhere://there"}], indirect=True)
def test_a_process_whose_engine_died_answers_and_then_ends_itself(process, ask):
    child, port = process
    with closing(connect(port)) as connection:
        connection.request("POST", "/generate", json.dumps(ask()), {"content-type": "application/json"})
        assert connection.getresponse().status == 503
    assert child.wait(STOP_S) == -signal.SIGTERM


def test_a_client_that_hangs_up_stops_its_generation(process, ask):
    _, port = process
    connection, response = open_stream(port, ask)
    response.close()
    connection.close()
    end = time.monotonic() + START_S
    while health(port)["running"]:
        assert time.monotonic() < end, "the row goes on for nobody"


def test_a_body_over_the_limit_is_a_problem_document(process):
    _, port = process
    with closing(connect(port)) as connection:
        connection.request("POST", "/generate", b"x" * 16, {"content-length": str(2**30)})
        response = connection.getresponse()
        assert response.status == 413
        assert response.headers["content-type"] == "application/problem+json"
