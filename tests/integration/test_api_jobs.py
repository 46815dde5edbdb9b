"""`/jobs`: what is accepted, what is refused and how, what a log looks like on the wire."""

import json
from datetime import timedelta

import pytest
import redis
import sqlalchemy as sa

from core.clock import utc_now
from core.queue import Queue
from core.ringer import Ringer
from models import claims, event, leases
from models.event import Item
from models.idempotency import KEEP, IdempotencyKey
from models.states import EventKind, WorkState
from models.work import Work
from tests.conftest import wait_for

BODY = {"base_model": "tiny", "dataset": "ds_ready"}
ON_BOTH = pytest.mark.parametrize("client", ["sqlite", "postgres"], indirect=True)


def create(client, **changes):
    return client.post("/jobs", json=BODY | changes)


def test_a_job_is_accepted_with_its_place_and_its_defaults(client, ready_dataset):
    answer = create(client, metadata={"team": "a"})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert (job["state"], job["queue_position"], job["metadata"]) == ("queued", 1, {"team": "a"})
    assert client.get(answer.headers["location"]).json() == job | {"waiting_for": "no worker of the queue is running"}


def test_the_resources_that_a_job_asks_for_come_back(client, ready_dataset):
    job = create(client, resources={"gpus": 2, "parallelism": "fsdp"}).json()
    unasked = {"num_processes": "auto", "memory_gb": None, "class": None}
    assert job["resources"] == {"gpus": 2, "parallelism": "fsdp"} | unasked
    assert client.get(f"/jobs/{job['id']}").json()["resources"] == job["resources"]


def test_eight_bit_weights_that_cannot_be_sharded_are_refused_before_there_is_a_job(client, ready_dataset):
    answer = create(client, method={"quantization": "int8"}, resources={"gpus": 2, "parallelism": "fsdp"})
    assert answer.status_code == 422
    assert "cannot shard 8-bit weights" in answer.text
    assert client.get("/jobs").json()["items"] == []


def test_the_message_that_goes_out_holds_only_the_jobs_id(client, ready_dataset, valkey_url):
    broker = redis.Redis.from_url(valkey_url)
    broker.flushall()
    job_id = create(client).json()["id"]
    (queue,) = wait_for(lambda: [key for key in broker.scan_iter() if broker.type(key) == b"list"], what="the message")
    message = json.loads(broker.lpop(queue))
    broker.close()
    assert message["headers"]["argsrepr"] == f"['{job_id}']"


@pytest.mark.parametrize("client", ["sqlite", "postgres"], indirect=True)
def test_the_message_goes_out_when_the_job_can_be_found(client, api_database, ready_dataset, monkeypatch):
    seen = []

    def ring(_ringer, _queue, work_id):
        with api_database.read() as session:  # another connection: it sees what was committed
            seen.append(session.get(Work, work_id) is not None)

    monkeypatch.setattr(Ringer, "ring", ring)
    assert create(client).status_code == 202
    assert seen == [True]


def test_a_job_is_accepted_while_the_broker_is_away(settings, api_database, ready_dataset):
    from fastapi.testclient import TestClient

    from api.app import create_app

    nowhere = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    with TestClient(create_app(nowhere), base_url="http://localhost") as client:
        assert create(client).status_code == 202
        assert client.get("/readyz").json()["parts"]["broker"]["ok"] is False


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"hyperparameters": {"learning_rate": 7}}, "#/hyperparameters/learning_rate"),
        ({"hyperparameters": {"epochs": 0}}, "#/hyperparameters/epochs"),
        ({"hyperparameters": {"batch_size": 6, "micro_batch_size": 4}}, "#/hyperparameters"),
        ({"method": {"r": 0}}, "#/method/r"),
        ({"method": {"target_modules": ["vision_model"]}}, "#/method/target_modules/0"),
        ({"image": {"longest_edge": 1}}, "#/image/longest_edge"),
        ({"resources": {"gpus": 2, "parallelism": "tensor"}}, "#/resources/parallelism"),
        ({"resources": {"num_processes": 2}}, "#/resources"),
        ({"seed": -1}, "#/seed"),
        ({"base_model": "no such model"}, "#/base_model"),
        ({"dataset": "ds_nowhere"}, "#/dataset"),
        ({"colour": "red"}, "#/colour"),
    ],
)
def test_a_wrong_field_is_named_by_its_pointer_and_makes_nothing(client, ready_dataset, changes, pointer):
    answer = create(client, **changes)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert [error["pointer"] for error in problem["errors"]] == [pointer], problem
    assert problem["instance"] == answer.headers["x-request-id"]
    assert client.get("/jobs").json()["items"] == []


def test_a_data_set_that_is_not_ready_is_a_conflict_that_says_what_to_wait_for(client, api_database, ready_dataset):
    from models.work import Work

    with api_database.write() as session:
        session.get_one(Work, ready_dataset).state = WorkState.QUEUED
    answer = create(client)
    assert answer.status_code == 409
    assert "Wait until GET /datasets/ds_ready says ready" in answer.json()["detail"]


@ON_BOTH
def test_the_same_key_and_body_make_one_job_and_another_body_is_refused(client, ready_dataset):
    headers = {"Idempotency-Key": "k1"}
    first = client.post("/jobs", json=BODY, headers=headers)
    again = client.post("/jobs", json=BODY, headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert client.post("/jobs", json=BODY | {"seed": 5}, headers=headers).status_code == 422
    assert len(client.get("/jobs").json()["items"]) == 1


@ON_BOTH
def test_a_key_older_than_a_day_is_used_afresh(client, api_database, ready_dataset):
    headers = {"Idempotency-Key": "k4"}
    first = client.post("/jobs", json=BODY, headers=headers).json()
    with api_database.write() as session:
        session.exec(sa.update(IdempotencyKey).values(created_at=utc_now() - KEEP - timedelta(seconds=1)))
    second = client.post("/jobs", json=BODY | {"seed": 5}, headers=headers)
    assert second.status_code == 202
    assert second.json()["id"] != first["id"]
    again = client.post("/jobs", json=BODY | {"seed": 5}, headers=headers)
    assert again.json() == second.json()


@ON_BOTH
def test_a_refused_request_keeps_no_key(client, ready_dataset):
    headers = {"Idempotency-Key": "k3"}
    assert client.post("/jobs", json=BODY | {"dataset": "ds_x"}, headers=headers).status_code == 422
    assert client.post("/jobs", json=BODY, headers=headers).status_code == 202


def test_lists_are_newest_first_and_paged_by_a_cursor(client, ready_dataset):
    made = [create(client, name=f"n{n}").json()["id"] for n in range(5)]
    first = client.get("/jobs", params={"limit": 2}).json()
    second = client.get("/jobs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    third = client.get("/jobs", params={"limit": 2, "cursor": second["next_cursor"]}).json()
    assert [job["id"] for page in (first, second, third) for job in page["items"]] == made[::-1]
    assert third["next_cursor"] is None
    assert client.get("/jobs", params={"state": "running"}).json()["items"] == []
    assert client.get("/jobs", params={"limit": 101}).status_code == 422


def test_a_waiting_job_is_cancelled_at_once_and_only_once(client, ready_dataset):
    job_id = create(client).json()["id"]
    assert client.post(f"/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    assert client.post(f"/jobs/{job_id}/cancel").status_code == 200, "asking again is no error"


def test_a_job_that_ended_cannot_be_cancelled(client, api_database, ready_dataset):
    job_id = create(client).json()["id"]
    with api_database.write() as session:
        claim = claims.claim(session, Queue.GPU, worker_id="w", lease_s=60)
        leases.finish(session, claim, WorkState.SUCCEEDED)
    answer = client.post(f"/jobs/{job_id}/cancel")
    assert answer.status_code == 409
    assert answer.json()["state"] == "succeeded"


@pytest.mark.parametrize("path", ["/jobs/job_x", "/jobs/job_x/logs", "/adapters/adp_x", "/datasets/ds_x"])
def test_an_unknown_id_is_404_with_a_sentence(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert path.split("/")[2] in answer.json()["detail"]


@pytest.fixture
def ended_job(client, api_database, ready_dataset) -> str:
    """A job that has ended, with a log of some length."""
    job_id = create(client).json()["id"]
    with api_database.write() as session:
        claim = claims.claim(session, Queue.GPU, worker_id="w", lease_s=60)
        for step in range(1, 6):
            event.append(session, job_id, [Item(kind=EventKind.METRIC, data={"step": step, "loss": 1 / step})])
        event.append(session, job_id, [Item(kind=EventKind.LOG, level="info", message="a\nb <img onerror=x>")])
        leases.finish(session, claim, WorkState.SUCCEEDED)
    return job_id


def events_of(answer) -> list[tuple[str, str, dict]]:
    """Return (event, id, data) of an SSE body."""
    blocks = [block.split("\n") for block in answer.text.split("\n\n") if block and not block.startswith(":")]
    fields = [dict(line.split(": ", 1) for line in block) for block in blocks]
    return [(field["event"], field.get("id", ""), json.loads(field["data"])) for field in fields]


def test_a_log_is_paged_by_its_numbers(client, ended_job):
    first = client.get(f"/jobs/{ended_job}/logs", params={"limit": 3}).json()
    assert [item["seq"] for item in first["items"]] == [1, 2, 3]
    rest = client.get(f"/jobs/{ended_job}/logs", params={"after": first["next_cursor"]}).json()
    assert [item["seq"] for item in rest["items"]] == list(range(4, 10))
    assert rest["next_cursor"] is None


def test_a_log_can_be_narrowed_to_kinds(client, ended_job):
    page = client.get(f"/jobs/{ended_job}/logs", params={"kind": "metric,log"}).json()
    assert {item["kind"] for item in page["items"]} == {"metric", "log"}
    assert client.get(f"/jobs/{ended_job}/logs", params={"kind": "colour"}).json()["errors"][0]["pointer"] == "#/kind"


def test_a_stream_replays_everything_and_ends(client, ended_job):
    answer = client.get(f"/jobs/{ended_job}/logs", headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer)
    assert [seq for _, seq, _ in events[:-1]] == [str(n) for n in range(1, 10)]
    assert events[1][0] == "event"
    assert events[-1] == ("end", "", {"state": "succeeded"})


def test_a_stream_goes_on_behind_the_last_event_that_the_client_saw(client, ended_job):
    answer = client.get(f"/jobs/{ended_job}/logs?follow=true", headers={"Last-Event-ID": "7"})
    assert [seq for _, seq, _ in events_of(answer)] == ["8", "9", ""]


def test_a_last_event_id_that_is_no_number_is_refused(client, ended_job):
    answer = client.get(f"/jobs/{ended_job}/logs?follow=true", headers={"Last-Event-ID": "x"})
    assert answer.status_code == 422


def test_a_stream_as_json_lines_holds_the_same_items(client, ended_job):
    answer = client.get(f"/jobs/{ended_job}/logs", headers={"Accept": "application/x-ndjson"})
    assert [json.loads(line)["seq"] for line in answer.text.splitlines()] == list(range(1, 10))


def test_a_stream_of_an_unknown_job_is_404_and_not_an_empty_200(client):
    assert client.get("/jobs/job_x/logs?follow=true").status_code == 404
