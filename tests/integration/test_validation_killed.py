"""A worker that is killed in the middle of a validation: the next one takes it up, and the data set is the same."""

import io
import os
import signal
import subprocess
import sys

import pytest

from ingest.container import Container
from ingest.pack import PACK_FILE
from ingest.validate import validate
from tests.conftest import wait_for
from tests.integration.conftest import colours
from tests.processes import below, is_alive

NUM_PICTURES = 2000  # seconds of work, so that the kill comes in the middle of it


@pytest.fixture
def start_worker(settings, valkey_url):
    """A function that starts a worker process for validations."""
    environment = os.environ | {"LENSMITH_DATA_DIR": str(settings.data_dir), "LENSMITH_REDIS_URL": valkey_url}
    environment |= {"LENSMITH_LEASE_S": "2", "LENSMITH_HEARTBEAT_S": "0.3", "LENSMITH_SWEEP_S": "0.5"}
    environment |= {"LENSMITH_POLL_S": "0.2"}
    started = []

    def start() -> subprocess.Popen:
        with (settings.layout.logs / f"worker-{len(started)}.log").open("wb") as out:
            command = [sys.executable, "-m", "worker.main", "--queue", "cpu"]
            started.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_validation_whose_worker_was_killed_is_taken_up_and_ends_with_the_same_digest(
    client, settings, start_worker, tmp_path
):
    data = colours(NUM_PICTURES)
    (tmp_path / "upload").write_bytes(data)
    (tmp_path / "undisturbed").mkdir()
    undisturbed = validate(tmp_path / "upload", Container.ZIP, tmp_path / "undisturbed")
    made = client.post("/datasets", files={"file": ("c.zip", io.BytesIO(data))}).json()
    path = f"/datasets/{made['id']}"
    first = start_worker()
    staging = settings.layout.staging(made["id"], 1)
    stored = wait_for(
        lambda: (staging / PACK_FILE).exists() and (staging / PACK_FILE).stat().st_size,
        what="the first picture of the first attempt",
    )
    processes = [first.pid, *below(first.pid)]
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert stored
    assert client.get(path).json()["state"] == "validating"
    wait_for(lambda: not any(map(is_alive, processes)), what="the end of what the worker had started")
    start_worker()
    ended = wait_for(
        lambda: (found := client.get(path).json())["state"] != "validating" and found, what="the second attempt"
    )
    assert (ended["state"], ended["digest"]) == ("ready", undisturbed.digest)
    assert ended["splits"] == undisturbed.splits
    assert ended["num_issues"] == undisturbed.num_issues
