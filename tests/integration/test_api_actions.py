"""Pause, resume, cancel, retry, delete and clone: what each does to the rows, and what it says where it cannot be done."""

import pytest
from sqlmodel import select

from core.queue import Queue
from core.storage import Storage
from models import checkpoint as checkpoints
from models import claims, event, leases
from models.adapter import Adapter
from models.checkpoint import Checkpoint
from models.event import Item
from models.job import Job
from models.states import ACTIONS, TRANSITIONS, Action, EventKind, WorkState, allowed_actions
from models.work import Work, transition

BODY = {"base_model": "tiny", "dataset": "ds_ready", "hyperparameters": {"max_steps": 3}, "method": {"r": 4}}
ASKS = ("cancel", "pause", "resume", "retry")


@pytest.fixture(params=["sqlite", "postgres"])
def client(request, client):
    return client


pytestmark = pytest.mark.parametrize("client", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def job(client, ready_dataset):
    return client.post("/jobs", json=BODY).json()["id"]


def put(database, job_id, state, **values):
    """Bring a job into a state by the way that leads there."""
    with database.write() as session:
        way = {
            WorkState.QUEUED: [],
            WorkState.RUNNING: [],
            WorkState.PAUSING: [WorkState.PAUSING],
            WorkState.PAUSED: [WorkState.PAUSING, WorkState.PAUSED],
            WorkState.CANCELLING: [WorkState.CANCELLING],
            WorkState.CANCELLED: [WorkState.CANCELLING, WorkState.CANCELLED],
            WorkState.FAILED: [WorkState.FAILED],
            WorkState.SUCCEEDED: [WorkState.SUCCEEDED],
        }[state]
        if state is not WorkState.QUEUED:
            assert claims.claim(session, Queue.GPU, worker_id="wrk_1", lease_s=60)
        for target in way:
            assert transition(session, job_id, target, **values)


def state_of(database, job_id):
    with database.read() as session:
        return session.get_one(Work, job_id).state


@pytest.mark.parametrize("state", [state for state in WorkState if state is not WorkState.VALIDATING])
@pytest.mark.parametrize("action", ASKS)
def test_an_action_does_what_the_table_allows_and_says_so_where_it_does_not(client, api_database, job, state, action):
    put(api_database, job, state)
    answer = client.post(f"/jobs/{job}/{action}")
    after = state_of(api_database, job)
    if state in ACTIONS[Action(action)]:
        assert answer.status_code == 200
        assert after in TRANSITIONS[state]
        assert answer.json()["state"] == after
    elif answer.status_code == 200:
        assert after is state, "asked for already: nothing changes"
    else:
        assert answer.status_code == 409
        assert after is state
        assert answer.json()["state"] == state
        assert answer.json()["allowed"] == list(allowed_actions(state))
        assert str(state) in answer.json()["detail"]


def test_every_action_stands_on_a_transition(client):
    moves = {Action.PAUSE: WorkState.PAUSING, Action.RESUME: WorkState.QUEUED, Action.RETRY: WorkState.QUEUED}
    for action, target in moves.items():
        assert all(target in TRANSITIONS[state] for state in ACTIONS[action])
    for state in ACTIONS[Action.CANCEL]:
        assert TRANSITIONS[state] & {WorkState.CANCELLING, WorkState.CANCELLED}


def test_a_retry_is_the_same_job_with_its_counts_at_zero(client, api_database, job):
    put(api_database, job, WorkState.FAILED, failure={"code": "storage"}, lost_attempts=2, failed_attempts=2)
    with api_database.write() as session:
        session.get_one(Work, job).available_at_s = 4e9
    read = client.post(f"/jobs/{job}/retry").json()
    assert (read["id"], read["state"], read["failure"], read["finished_at"]) == (job, "queued", None, None)
    with api_database.write() as session:
        claim = claims.claim(session, Queue.GPU, worker_id="wrk_2", lease_s=60)
    assert (claim.work_id, claim.attempt) == (job, 2)
    with api_database.read() as session:
        assert (session.get_one(Work, job).lost_attempts, session.get_one(Work, job).failed_attempts) == (0, 0)
    attempts = client.get(f"/jobs/{job}/attempts").json()["items"]
    assert [each["number"] for each in attempts] == [1, 2]


def saved(database, storage, job_id, step):
    row = Checkpoint(id=f"ckpt_{step}", job_id=job_id, step=step, attempt=1, sha256=f"{step:064}", size_bytes=5)
    storage.put_bytes(f"{row.prefix}/manifest.json", b"whole")
    with database.write() as session:
        checkpoints.add(session, row)
    return row


def test_a_retry_from_the_first_step_forgets_checkpoints_and_curve(client, api_database, settings, job):
    storage = Storage.from_url(settings.resolved_storage_url)
    row = saved(api_database, storage, job, 4)
    with api_database.write() as session:
        metric = Item(kind=EventKind.METRIC, data={"step": 1, "loss": 2.0})
        event.append(session, job, [metric])
        session.get_one(Job, job).metrics = {"loss": 2.0}
    assert [each["step"] for each in client.get(f"/jobs/{job}/checkpoints").json()["items"]] == [4]
    assert [each["step"] for each in client.get(f"/jobs/{job}/metrics").json()["items"]] == [1]
    put(api_database, job, WorkState.FAILED)
    assert client.post(f"/jobs/{job}/retry", json={"from_checkpoint": False}).json()["metrics"] is None
    assert client.get(f"/jobs/{job}/checkpoints").json()["items"] == []
    assert client.get(f"/jobs/{job}/metrics").json()["items"] == []
    assert not storage.has(f"{row.prefix}/manifest.json")
    kinds = [item["kind"] for item in client.get(f"/jobs/{job}/logs").json()["items"]]
    assert "metric" in kinds, "the log keeps what was"


def test_a_retry_keeps_its_checkpoints_unless_it_is_told_otherwise(client, api_database, settings, job):
    saved(api_database, Storage.from_url(settings.resolved_storage_url), job, 4)
    put(api_database, job, WorkState.CANCELLED)
    client.post(f"/jobs/{job}/retry")
    assert [each["step"] for each in client.get(f"/jobs/{job}/checkpoints").json()["items"]] == [4]


def test_a_job_whose_data_set_was_deleted_cannot_be_retried_and_the_refusal_says_what_to_do(client, api_database, job):
    put(api_database, job, WorkState.FAILED)
    assert client.delete("/datasets/ds_ready").status_code == 204
    refused = client.post(f"/jobs/{job}/retry")
    assert refused.status_code == 409
    assert "clone_of" in refused.json()["detail"]
    assert state_of(api_database, job) is WorkState.FAILED


def test_a_deleted_job_is_gone_and_its_adapter_stays(client, api_database, settings, job):
    storage = Storage.from_url(settings.resolved_storage_url)
    row = saved(api_database, storage, job, 4)
    assert client.delete(f"/jobs/{job}").status_code == 409
    put(api_database, job, WorkState.SUCCEEDED)
    with api_database.write() as session:
        made = Adapter(
            id="adp_1",
            job_id=job,
            name="a",
            state="ready",
            base_model="tiny",
            base_revision="r",
            sha256="0" * 64,
            size_bytes=1,
        )
        session.add(made)
    assert client.delete(f"/jobs/{job}").status_code == 204
    for path in ("", "/logs", "/metrics", "/attempts", "/checkpoints", "/samples"):
        assert client.get(f"/jobs/{job}{path}").status_code == 404
    for action in ASKS:
        assert client.post(f"/jobs/{job}/{action}").status_code == 404
    assert client.delete(f"/jobs/{job}").status_code == 404
    assert client.get("/jobs").json()["items"] == []
    assert not storage.has(f"{row.prefix}/manifest.json")
    assert client.get("/adapters/adp_1").json()["job"] == job


def test_a_clone_takes_what_it_leaves_out_from_the_original(client, job):
    made = client.post("/jobs", json={"clone_of": job, "method": {"alpha": 32}, "seed": 9}).json()
    assert (made["clone_of"], made["dataset"], made["base_model"], made["seed"]) == (job, "ds_ready", "tiny", 9)
    assert (made["method"]["r"], made["method"]["alpha"]) == (4, 32)
    assert made["hyperparameters"]["max_steps"] == 3
    assert made["id"] != job


def test_a_clone_of_nothing_and_one_that_contradicts_itself_are_refused(client, job, api_database):
    assert client.post("/jobs", json={"clone_of": "job_nowhere"}).json()["errors"][0]["pointer"] == "#/clone_of"
    refused = client.post("/jobs", json={"clone_of": job, "hyperparameters": {"epochs": 2}})
    assert refused.status_code == 422
    assert "epochs or max_steps" in refused.json()["detail"]
    for body in ({}, {"dataset": "ds_ready"}):
        pointers = [error["pointer"] for error in client.post("/jobs", json=body).json()["errors"]]
        assert "#/base_model" in pointers
    with api_database.read() as session:
        assert len(session.exec(select(Job)).all()) == 1


def test_a_batch_makes_a_job_for_each_combination_and_shows_them(client, api_database, ready_dataset):
    body = {
        "name": "sweep",
        "job": BODY | {"name": "digits"},
        "grid": {"hyperparameters.learning_rate": [1e-4, 2e-4], "method.r": [8, 16, 32]},
    }
    made = client.post("/jobs/batch", json=body, headers={"Idempotency-Key": "k"})
    assert made.status_code == 202
    batch = made.json()
    assert made.headers["location"] == f"/jobs/batch/{batch['id']}"
    assert (batch["num_jobs"], batch["states"], batch["is_ended"]) == (6, {"queued": 6}, False)
    asked = {
        (each["overrides"]["hyperparameters.learning_rate"], each["overrides"]["method.r"]) for each in batch["jobs"]
    }
    assert asked == {(rate, r) for rate in (1e-4, 2e-4) for r in (8, 16, 32)}
    one = client.get(f"/jobs/{batch['jobs'][0]['id']}").json()
    assert (one["batch"], one["method"]["r"]) == (batch["id"], batch["jobs"][0]["overrides"]["method.r"])
    assert one["name"].startswith("digits learning_rate=")
    again = client.post("/jobs/batch", json=body, headers={"Idempotency-Key": "k"}).json()
    assert again["id"] == batch["id"]
    assert len(client.get(f"/jobs?batch={batch['id']}&limit=100").json()["items"]) == 6
    assert [each["id"] for each in client.get("/jobs/batch").json()["items"]] == [batch["id"]]
    with api_database.write() as session:
        for loss in (0.5, 0.3):
            claim = claims.claim(session, Queue.GPU, worker_id="w", lease_s=60)
            session.get_one(Job, claim.work_id).metrics = {"eval_loss": loss}
            session.flush()
            leases.finish(session, claim, WorkState.SUCCEEDED)
    assert client.get(f"/jobs/batch/{batch['id']}").json()["best"] == claim.work_id
    ended = client.post(f"/jobs/batch/{batch['id']}/cancel").json()
    assert (ended["states"], ended["is_ended"]) == ({"cancelled": 4, "succeeded": 2}, True)


@pytest.mark.parametrize(
    ("grid", "pointer", "told"),
    [
        ({"method.r": [8, 0]}, "#/grid/method.r", "r=0"),
        ({"metod.r": [8]}, "#/grid/metod.r", "no field of a job"),
        ({"method.size": [8]}, "#/grid/method.size", "method.size"),
        ({"seed": list(range(11)), "method.r": list(range(1, 11))}, "#/grid", "110 jobs"),
        ({}, "#/grid", ""),
    ],
)
def test_a_batch_with_one_bad_combination_makes_nothing(client, api_database, ready_dataset, grid, pointer, told):
    refused = client.post("/jobs/batch", json={"job": BODY, "grid": grid})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == pointer
    assert told in refused.json()["errors"][0]["detail"]
    with api_database.read() as session:
        assert session.exec(select(Job)).all() == []
    assert client.get("/jobs/batch").json()["items"] == []
