"""Cancel, pause, resume, retry and delete over HTTP: what each does in every state, and how the others are refused."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import sqlalchemy as sa
from sqlmodel import col

from models import control, event, leases
from models import dataset as datasets
from models.adapter import Adapter
from models.event import Item
from models.states import ACTIONS, FULFILLED, TERMINAL, Action, AdapterState, EventKind, WorkState, allowed_actions
from models.work import Work
from tests.conftest import wait_for
from tests.integration.lifecycles import bring_to, claim, create, finish, keep_checkpoint, look

ON_BOTH = pytest.mark.parametrize("client", ["sqlite", "postgres"], indirect=True)
REACHED = [state for state in WorkState if state is not WorkState.VALIDATING]


@pytest.fixture
def storage(client):
    return client.app.state.services.storage


def ask(client, job_id, action, **body):
    if action is Action.DELETE:
        return client.delete(f"/jobs/{job_id}")
    return client.post(f"/jobs/{job_id}/{action}", **({"json": body} if body else {}))


def log_of(client, job_id):
    return [item["message"] for item in client.get(f"/jobs/{job_id}/logs").json()["items"]]


@ON_BOTH
def test_every_action_does_in_every_state_what_the_table_says(client, api_database, ready_dataset):
    for state in REACHED:
        for action in Action:
            job_id = bring_to(client, api_database, state)
            before, answer = log_of(client, job_id), ask(client, job_id, action)
            if action is Action.DELETE and state in TERMINAL:
                assert (answer.status_code, answer.content) == (204, b"")
                continue
            if state in ACTIONS[action]:
                assert (answer.status_code, answer.json()["state"]) == (200, ACTIONS[action][state]), (state, action)
                assert len(log_of(client, job_id)) == len(before) + 1, (state, action)
            elif state in FULFILLED[action]:
                assert (answer.status_code, answer.json()["state"]) == (200, state), (state, action)
                assert log_of(client, job_id) == before, "asked again, nothing is written"
            else:
                said, allowed = answer.json(), [choice.value for choice in allowed_actions(state)]
                assert answer.status_code == 409, (state, action)
                assert (said["state"], said["allowed"]) == (state, allowed)
                assert f"is {state} and cannot be" in said["detail"]
                assert all(choice in said["detail"] for choice in allowed)
                assert look(api_database, job_id).state is state
            with api_database.write() as session:  # out of the way of the next one
                session.execute(sa.update(Work).where(col(Work.id) == job_id).values(state=WorkState.FAILED))


def test_a_paused_job_goes_on_as_the_next_attempt(client, api_database, ready_dataset):
    job_id = create(client)
    first = claim(api_database)
    assert ask(client, job_id, Action.PAUSE).json()["state"] == "pausing"
    with api_database.write() as session:
        assert leases.heartbeat(session, first, lease_s=60) is WorkState.PAUSING
        assert leases.pause(session, first)
    assert claim(api_database) is None, "a paused job holds no device and waits for no worker"
    assert ask(client, job_id, Action.RESUME).json()["state"] == "queued"
    second = claim(api_database)
    assert (second.work_id, second.attempt) == (job_id, 2)
    outcomes = [attempt["outcome"] for attempt in client.get(f"/jobs/{job_id}/attempts").json()["items"]]
    assert outcomes == ["paused", None]


@ON_BOTH
def test_a_retry_is_the_same_job_with_all_its_attempts_before_it_again(client, api_database, ready_dataset):
    job_id = bring_to(client, api_database, WorkState.FAILED)
    with api_database.write() as session:
        session.execute(sa.update(Work).values(lost_attempts=2, failed_attempts=2, available_at_s=9e9))
    assert client.get(f"/jobs/{job_id}").json()["failure"]["detail"] == "It broke."
    read = ask(client, job_id, Action.RETRY).json()
    assert (read["id"], read["state"], read["failure"], read["finished_at"]) == (job_id, "queued", None, None)
    work = look(api_database, job_id)
    assert (work.lost_attempts, work.failed_attempts) == (0, 0)
    assert claim(api_database).attempt == 2
    first, _ = client.get(f"/jobs/{job_id}/attempts").json()["items"]
    assert (first["outcome"], first["failure"]["detail"]) == ("failed", "It broke."), "the old attempt keeps its end"


@ON_BOTH
def test_a_retry_from_the_first_step_forgets_checkpoints_and_curve(client, api_database, ready_dataset, storage):
    job_id = bring_to(client, api_database, WorkState.FAILED)
    with api_database.write() as session:
        event.append(session, job_id, [Item(kind=EventKind.METRIC, data={"step": 1, "loss": 2.0})])
    key = keep_checkpoint(api_database, storage, job_id)
    assert len(client.get(f"/jobs/{job_id}/metrics").json()["items"]) == 1
    assert ask(client, job_id, Action.RETRY, from_checkpoint=False).json()["state"] == "queued"
    assert client.get(f"/jobs/{job_id}/checkpoints").json() == {"items": []}
    assert not storage.has(key)
    assert client.get(f"/jobs/{job_id}/metrics").json()["items"] == [], "the run that was given up is not in the curve"
    again = ask(client, job_id, Action.RETRY, from_checkpoint=False)
    assert again.status_code == 200, "asked again, what was forgotten is still forgotten"


def test_a_retry_keeps_the_checkpoints_unless_told_otherwise(client, api_database, ready_dataset, storage):
    job_id = bring_to(client, api_database, WorkState.CANCELLED)
    key = keep_checkpoint(api_database, storage, job_id)
    assert ask(client, job_id, Action.RETRY).status_code == 200
    (kept,) = client.get(f"/jobs/{job_id}/checkpoints").json()["items"]
    assert (kept["step"], kept["attempt"], storage.has(key)) == (5, 1, True)
    late = ask(client, job_id, Action.RETRY, from_checkpoint=False)
    assert late.status_code == 409, "it is queued with its checkpoint already"
    assert "step 5" in late.json()["detail"]


@ON_BOTH
def test_a_retry_without_its_data_set_says_what_is_left(client, api_database, ready_dataset):
    job_id = bring_to(client, api_database, WorkState.FAILED)
    assert client.delete("/datasets/ds_ready").status_code == 204
    answer = ask(client, job_id, Action.RETRY)
    assert (answer.status_code, answer.json()["allowed"]) == (409, ["delete"])
    assert "clone_of" in answer.json()["detail"]
    assert look(api_database, job_id).state is WorkState.FAILED


def test_a_wrong_retry_is_refused_by_its_field(client, api_database, ready_dataset):
    job_id = bring_to(client, api_database, WorkState.FAILED)
    answer = ask(client, job_id, Action.RETRY, seed=3)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/seed")


def test_resume_and_retry_ring(client, api_database, ready_dataset, valkey_url):
    broker = redis.Redis.from_url(valkey_url)
    paused = bring_to(client, api_database, WorkState.PAUSED)
    failed = bring_to(client, api_database, WorkState.FAILED)

    def rung() -> set[str]:
        queues = [key for key in broker.scan_iter() if broker.type(key) == b"list"]
        return {json.loads(each)["headers"]["argsrepr"] for key in queues for each in broker.lrange(key, 0, -1)}

    for job_id, action in ((paused, Action.RESUME), (failed, Action.RETRY)):
        broker.flushall()
        ask(client, job_id, action)
        wait_for(lambda job_id=job_id: f"['{job_id}']" in rung(), what=f"the ring for {action}", within_s=30)
    broker.close()


@ON_BOTH
def test_a_deleted_job_is_found_nowhere_and_its_adapter_stays(client, api_database, ready_dataset, storage):
    job_id = bring_to(client, api_database, WorkState.SUCCEEDED)
    with api_database.write() as session:
        session.add(
            Adapter(
                id="adp_1",
                job_id=job_id,
                name="a",
                state=AdapterState.READY,
                base_model="tiny",
                base_revision="r",
                sha256="a" * 64,
                size_bytes=1,
            )
        )
    key = keep_checkpoint(api_database, storage, job_id)
    assert ask(client, job_id, Action.DELETE).status_code == 204
    paths = ("", "/logs", "/attempts", "/checkpoints", "/metrics", "/samples")
    assert {client.get(f"/jobs/{job_id}{path}").status_code for path in paths} == {404}
    assert {ask(client, job_id, action).status_code for action in Action} == {404}
    assert client.get("/jobs").json()["items"] == []
    assert client.post("/jobs", json={"clone_of": job_id}).status_code == 422
    assert 'lensmith_jobs{state="succeeded"} 0.0' in client.get("/metrics").text
    assert not storage.has(key)
    assert client.get("/adapters/adp_1").json()["job"] == job_id


@pytest.mark.parametrize("client", ["postgres"], indirect=True)
def test_a_job_is_deleted_or_retried_and_never_both(client, api_database, ready_dataset):
    for _ in range(15):
        job_id = bring_to(client, api_database, WorkState.FAILED)
        gate, codes = threading.Barrier(2), {}

        def act(action, job_id=job_id, gate=gate, codes=codes):
            gate.wait()
            codes[action] = ask(client, job_id, action).status_code

        threads = [threading.Thread(target=act, args=(action,)) for action in (Action.RETRY, Action.DELETE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if codes[Action.DELETE] == 204:
            assert (codes[Action.RETRY], look(api_database, job_id).state) == (404, WorkState.FAILED)
        else:
            assert codes == {Action.RETRY: 200, Action.DELETE: 409}
            assert finish(api_database, claim(api_database))


@ON_BOTH
def test_the_curve_goes_on_over_attempts_in_pages(client, api_database, ready_dataset):
    job_id = create(client)
    for steps in ((1, 2), (3,)):
        claimed = claim(api_database)
        items = [
            Item(kind=EventKind.METRIC, data={"step": step, "total_steps": 3, "epoch": step / 3, "loss": 1 / step})
            for step in steps
        ]
        with api_database.write() as session:
            event.append(session, job_id, [*items, Item(kind=EventKind.SAMPLE, data={"answer": "red"})])
            leases.give_back(session, claimed, reason="deploy")
    first = client.get(f"/jobs/{job_id}/metrics", params={"limit": 2}).json()
    rest = client.get(f"/jobs/{job_id}/metrics", params={"after": first["next_cursor"]}).json()
    points = first["items"] + rest["items"]
    assert [(point["step"], point["attempt"]) for point in points] == [(1, 1), (2, 1), (3, 2)]
    assert points[1]["figures"] == {"loss": 0.5}
    assert rest["next_cursor"] is None
    samples = client.get(f"/jobs/{job_id}/samples").json()["items"]
    assert [item["data"] for item in samples] == [{"answer": "red"}] * 2
    ranges = [(item["first_seq"], item["last_seq"]) for item in client.get(f"/jobs/{job_id}/attempts").json()["items"]]
    assert ranges == [(2, 6), (7, 10)], "each attempt has its own part of the log"


@ON_BOTH
@pytest.mark.parametrize("first", ["deletion", "retry"])
def test_a_retry_and_the_deletion_of_its_data_set_at_one_moment_see_each_other(
    client, api_database, ready_dataset, first, monkeypatch
):
    """Whichever comes second waits, then is refused for what the first has done."""
    job_id = bring_to(client, api_database, WorkState.FAILED)
    module, name = (datasets, "delete") if first == "deletion" else (control, "note")
    inside, go_on, act = threading.Event(), threading.Event(), getattr(module, name)

    def held(*asked, **named):
        acted = act(*asked, **named)
        inside.set()
        assert go_on.wait(60)
        return acted

    monkeypatch.setattr(module, name, held)
    asked = {
        "deletion": lambda: client.delete(f"/datasets/{ready_dataset}"),
        "retry": lambda: ask(client, job_id, Action.RETRY),
    }
    (second,) = asked.keys() - {first}
    with ThreadPoolExecutor(2) as pool:
        winner = pool.submit(asked[first])
        assert inside.wait(60)
        loser = pool.submit(asked[second])
        with pytest.raises(TimeoutError):
            loser.result(0.5)
        monkeypatch.undo()
        go_on.set()
        assert winner.result(60).status_code in (200, 204), winner.result().text
        refused = loser.result(60)
    assert refused.status_code == 409, refused.text
    assert ("is used by the job" if second == "deletion" else "was deleted") in refused.json()["detail"]
    assert look(api_database, job_id).state is (WorkState.QUEUED if first == "retry" else WorkState.FAILED)
