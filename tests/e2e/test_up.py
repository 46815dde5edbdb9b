"""`lensmith up`: one line per part, one service per data directory, nothing left behind."""

import os
import signal
import subprocess
import threading
from pathlib import Path

import httpx2
import pytest

from core.process import free_port
from lensmith import Client
from tests.conftest import wait_for
from tests.e2e.conftest import LENSMITH, start
from tests.integration.conftest import colours
from tests.processes import is_alive

pytestmark = pytest.mark.e2e

PARTS = ("database", "valkey", "serving", "api", "worker-gpu", "worker-cpu")


@pytest.fixture
def up(tmp_path):
    """A function that starts a service and stops it after the test, if it still runs."""
    started = []

    def run(**environment):
        started.append(start(tmp_path / "data", **environment))
        return started[-1]

    yield run
    for service in started:
        if service.process.poll() is None:
            service.stop()


def refusal(*arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [LENSMITH, "up", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
        check=False,
    )
    return done.returncode, done.stdout


def test_it_names_every_part_and_sigterm_leaves_no_process_behind_while_a_job_runs_and_a_stream_is_open(up, tmp_path):
    service = up()
    lines = service.output.read_text()
    assert all(part in lines for part in PARTS)
    (tmp_path / "c.zip").write_bytes(colours(12))
    with Client(service.url) as client:
        dataset = client.datasets.wait(client.datasets.upload(tmp_path / "c.zip").id)
        job = client.jobs.create(base_model="tiny", dataset=dataset.id, hyperparameters={"max_steps": 100_000})
        wait_for(lambda: (client.jobs.get(job.id).progress or {}).get("step"), what="the first step")
        processes = service.descendants()
        assert len(processes) >= len(PARTS)  # the database is no process, the job's child is one
        streamed = threading.Event()
        reader = threading.Thread(target=_read, args=(service.url, job.id, streamed))
        reader.start()
        assert streamed.wait(30), "the stream gave nothing"
        assert service.stop() == 0
        reader.join(30)
        assert not reader.is_alive()
    assert [pid for pid in processes if is_alive(pid)] == []
    again = up()
    with Client(again.url) as client:  # everything is in place, and the job goes on by itself
        wait_for(lambda: client.jobs.get(job.id).attempt == 2, what="the second attempt")
        client.jobs.cancel(job.id)
        wait_for(lambda: client.jobs.get(job.id).state == "cancelled", what="the cancel")
        attempts = [item.message for item in client.jobs.logs(job.id, kind="event")]
    assert "Given back: the worker was told to stop." in attempts


def _read(url: str, job_id: str, streamed: threading.Event) -> None:
    with httpx2.Client(base_url=url, timeout=60) as client, client.sse(f"/jobs/{job_id}/logs") as source:
        for event in source:
            streamed.set()
            assert event.event != "end", "the job has not ended, the server has"


def test_a_kill_of_the_service_leaves_no_process_behind(up):
    service = up()
    processes = service.descendants()
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()
    wait_for(lambda: not any(is_alive(pid) for pid in processes), what="the end of every part")


def test_a_second_service_on_the_same_data_directory_says_so_in_one_sentence(up):
    service = up()
    status, said = refusal("--data-dir", str(service.data_dir), "--port", "0")
    assert status == 1
    assert f"A service already runs on {service.data_dir} (process {service.process.pid})" in said
    assert "Traceback" not in said


def test_a_port_in_use_is_one_sentence(up, tmp_path):
    service = up()
    status, said = refusal("--data-dir", str(tmp_path / "other"), "--port", service.url.rpartition(":")[2])
    assert status == 1
    assert said.count("\n") == 1
    assert "is in use" in said


def test_an_address_for_others_wants_a_key_and_says_how_to_make_one(tmp_path):
    status, said = refusal("--data-dir", str(tmp_path), "--host", "0.0.0.0", "--port", str(free_port()))
    assert status == 1
    assert "LENSMITH_API_KEY" in said
    status, said = refusal("--data-dir", str(tmp_path), "--host", "0.0.0.0", "--port", "0", LENSMITH_API_KEY="")
    assert status == 1, "an empty key is no key"


def test_a_second_plain_start_names_the_first_and_not_its_port(up):
    service = up()
    status, said = refusal("--data-dir", str(service.data_dir), "--port", service.url.rpartition(":")[2])
    assert (status, said.count("\n")) == (1, 1)
    assert f"(process {service.process.pid})" in said


def test_a_broker_that_the_user_named_is_used_even_at_the_default_address(tmp_path):
    environment = {"LENSMITH_REDIS_URL": "redis://127.0.0.1:6379/0"}
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [LENSMITH, "up", "--data-dir", str(tmp_path / "data"), "--port", "0"],
            stdout=out,
            env=os.environ | environment,
        )
    try:
        wait_for(lambda: "worker-cpu" in (tmp_path / "out").read_text() or process.poll() is not None, what="the parts")
        assert "valkey" not in (tmp_path / "out").read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_a_loopback_address_by_another_name_is_served(up, host):
    service = up(LENSMITH_HOST=host)
    port = service.url.rpartition(":")[2]
    url = f"http://[::1]:{port}" if host == "::1" else f"http://localhost:{port}"
    assert f"is up at {url} " in service.output.read_text()
    assert httpx2.get(f"{url}/healthz", trust_env=False).json() == {"status": "ok"}


def test_a_hang_up_stops_it_like_sigterm(up):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it (`nohup`)
    try:
        service = up()
    finally:
        signal.signal(signal.SIGHUP, before)
    processes = service.descendants()
    assert service.stop(signal.SIGHUP) == 0
    assert [pid for pid in processes if is_alive(pid)] == []


def test_a_hang_up_that_is_ignored_does_not_stop_it(up):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does; a child inherits it
    try:
        service = up()
    finally:
        signal.signal(signal.SIGHUP, before)
    service.process.send_signal(signal.SIGHUP)
    assert httpx2.get(f"{service.url}/healthz", trust_env=False).is_success
    assert service.stop() == 0
    assert "stopped" in service.output.read_text()


def test_what_a_killed_run_left_is_gone_after_a_start(up, tmp_path):
    left = ("run/staging/job_x-1/spec.json", "cache/datasets/abc.req_1/records", "cache/adapters/fetching-x/a.json")
    left += ("cache/tables/ds_x-abc.req_1/records", "cache/thumbnails/abc.webp.req_1", "storage/staging/req_1#1")
    for name in (*left, "cache/datasets/abc/records"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        path.write_text("x")
    service = up()
    assert [name for name in left if (service.data_dir / name).exists()] == []
    assert (service.data_dir / "cache/datasets/abc/records").exists()


def part(service, text: bytes) -> int:
    return next(pid for pid in service.descendants() if text in Path(f"/proc/{pid}/cmdline").read_bytes())


def long_job(client: Client, tmp_path: Path):
    (tmp_path / "c.zip").write_bytes(colours(12))
    dataset = client.datasets.wait(client.datasets.upload(tmp_path / "c.zip").id)
    job = client.jobs.create(base_model="tiny", dataset=dataset.id, hyperparameters={"max_steps": 100_000})
    wait_for(lambda: step_of(client, job), what="the first step")
    return job


def step_of(client: Client, job) -> int:
    return (client.jobs.get(job.id).progress or {}).get("step") or 0


def test_a_serving_that_dies_is_started_again_and_the_job_goes_on(up, tmp_path):
    service = up()
    with Client(service.url) as client:
        job = long_job(client, tmp_path)
        os.kill(part(service, b"serving.main"), signal.SIGKILL)
        wait_for(lambda: "serving ended with status -9; started again (1 of 5)" in service.output.read_text())
        step = step_of(client, job)
        wait_for(lambda: client.ready()["parts"]["serving"]["ok"], what="serving")
        assert client.infer("Which?", model="tiny", max_tokens=1).finish_reason
        wait_for(lambda: step_of(client, job) > step, what="another step")
        assert client.jobs.get(job.id).attempt == 1
        client.jobs.cancel(job.id)


def test_a_gpu_worker_that_dies_is_started_again_and_takes_the_job_up(up, tmp_path):
    service = up(LENSMITH_LEASE_S="3", LENSMITH_HEARTBEAT_S="0.5", LENSMITH_SWEEP_S="1")
    with Client(service.url) as client:
        job = long_job(client, tmp_path)
        os.kill(part(service, b"worker.main\x00--queue\x00gpu"), signal.SIGKILL)
        wait_for(lambda: client.jobs.get(job.id).attempt == 2, what="the second attempt")
        wait_for(lambda: client.jobs.get(job.id).state == "running", what="the second run")
        assert "worker-gpu ended with status -9; started again (1 of 5)" in service.output.read_text()
        client.jobs.cancel(job.id)


def test_a_client_gets_through_whatever_part_is_killed_meanwhile(up, tmp_path):
    """As the demo goes, with each part killed right before it is needed, or while it works."""
    service = up(LENSMITH_LEASE_S="5", LENSMITH_HEARTBEAT_S="0.5", LENSMITH_SWEEP_S="1")

    def kill(text: bytes) -> None:
        os.kill(part(service, text), signal.SIGKILL)

    (tmp_path / "c.zip").write_bytes(colours(12))
    with Client(service.url, is_up=True) as client:
        kill(b"api.main")
        uploaded = client.datasets.upload(tmp_path / "c.zip")
        kill(b"worker.main\x00--queue\x00cpu")
        dataset = client.datasets.wait(uploaded.id)
        kill(b"serving.main")
        assert client.infer("Which?", model="tiny", max_tokens=1).finish_reason
        kill(b"api.main")
        job = client.jobs.create(base_model="tiny", dataset=dataset.id, hyperparameters={"max_steps": 150})
        wait_for(lambda: step_of(client, job), what="the first step")
        kill(b"training.run")
        kill(b"valkey-server")
        wait_for(lambda: client.jobs.get(job.id).attempt == 2, what="the second attempt")
        kill(b"worker.main\x00--queue\x00gpu")
        kill(b"api.main")
        told = [item.data for item in client.jobs.follow(job.id, kind="metric")]
        steps = [figures["step"] for figures in told if "loss" in figures]
        assert steps == list(range(1, len(steps) + 1)), "each step once"
        ended = client.jobs.get(job.id)
        assert (ended.state, steps[-1]) == ("succeeded", 150)
        kill(b"serving.main")
        assert client.infer("Which?", adapter=ended.adapter, max_tokens=1).finish_reason


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("LENSMITH_PORT", "many", "LENSMITH_PORT (or --port): "),
        ("LENSMITH_LEASE_S", "10", "LENSMITH_HEARTBEAT_S: a lease of 10 s (LENSMITH_LEASE_S) needs heartbeats"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(name, value, says):
    done = subprocess.run([LENSMITH, "up"], capture_output=True, text=True, env=os.environ | {name: value}, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(says)


def test_work_goes_on_while_the_broker_is_away(up, tmp_path):
    service = up()
    broker = next(pid for pid in service.descendants() if b"valkey-server" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(broker, signal.SIGSTOP)  # it is there, and says nothing
    try:
        (tmp_path / "c.zip").write_bytes(colours(12))
        with Client(service.url) as client:
            dataset = client.datasets.wait(client.datasets.upload(tmp_path / "c.zip").id)
        assert dataset.state == "ready"
    finally:
        os.kill(broker, signal.SIGCONT)


def test_the_command_line_speaks_json_when_nobody_looks(up):
    service = up()
    environment = os.environ | {"LENSMITH_URL": service.url}
    listed = subprocess.run(
        [LENSMITH, "jobs", "list", "--json"], capture_output=True, text=True, env=environment, check=False
    )
    assert (listed.returncode, listed.stdout) == (0, "")
    shown = subprocess.run(
        [LENSMITH, "jobs", "show", "job_x"], capture_output=True, text=True, env=environment, check=False
    )
    assert shown.returncode == 1
    assert "There is no job" in shown.stderr
    away = subprocess.run(
        [LENSMITH, "jobs", "list"],
        capture_output=True,
        text=True,
        env=os.environ | {"LENSMITH_URL": "http://127.0.0.1:1"},
        check=False,
    )
    assert away.returncode == 4
    assert "lensmith up" in away.stderr
