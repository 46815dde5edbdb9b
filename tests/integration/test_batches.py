"""`clone_of` and `/jobs/batch`: jobs from other jobs, and many jobs from one request."""

import pytest

from models import job as jobs
from models.job import Batch
from models.states import WorkState
from tests.integration.lifecycles import BODY, bring_to, claim, create, finish

ON_BOTH = pytest.mark.parametrize("client", ["sqlite", "postgres"], indirect=True)
GRID = {"method.r": [8, 16], "hyperparameters.learning_rate": [1e-4, 2e-4]}


def clone(client, job_id, **changes):
    return client.post("/jobs", json={"clone_of": job_id} | changes)


def batch(client, *, job=BODY, grid=GRID, headers=None, **more):
    return client.post("/jobs/batch", json={"job": job, "grid": grid} | more, headers=headers)


@ON_BOTH
def test_a_clone_is_made_with_what_the_original_was_made_with(client, ready_dataset):
    asked = {"name": "n", "seed": 7, "method": {"r": 4}, "priority": 3, "metadata": {"team": "a"}}
    original = client.get(f"/jobs/{create(client, **asked)}").json()
    answer = clone(client, original["id"])
    assert answer.status_code == 202, answer.text
    made = answer.json()
    own = {"id", "clone_of", "created_at", "queue_position", "waiting_for"}
    assert {name for name in made if made[name] != original[name]} == own
    assert (original["clone_of"], made["clone_of"]) == (None, original["id"])
    assert client.get(f"/jobs/{made['id']}").json() == made


def test_what_the_caller_sets_is_laid_deep_over_the_original(client, ready_dataset):
    original = create(client, method={"type": "lora", "r": 4}, hyperparameters={"epochs": 2, "batch_size": 4})
    changes = {"method": {"quantization": "none", "alpha": 2.0}, "hyperparameters": {"batch_size": 8}, "seed": 5}
    made = clone(client, original, **changes).json()
    assert (made["method"]["r"], made["method"]["alpha"], made["method"]["type"]) == (4, 2.0, "lora")
    assert (made["hyperparameters"]["epochs"], made["hyperparameters"]["batch_size"], made["seed"]) == (2, 8, 5)


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"clone_of": "job_nowhere"}, "#/clone_of"),
        ({"clone_of": "No Id"}, "#/clone_of"),
        ({"clone_of": 3}, "#/clone_of"),
        ({"method": {"r": 0}}, "#/method/r"),
        ({"method": {"colour": 1}}, "#/method/colour"),
        ({"hyperparameters": {"max_steps": 3}}, "#/hyperparameters"),
        ({"dataset": "ds_nowhere"}, "#/dataset"),
        ({"base_model": "no such model"}, "#/base_model"),
        ({"seed": "x"}, "#/seed"),
        ({"colour": "red"}, "#/colour"),
    ],
)
def test_a_wrong_field_of_a_clone_is_named_and_makes_nothing(client, ready_dataset, changes, pointer):
    original = create(client, hyperparameters={"epochs": 1})
    answer = client.post("/jobs", json={"clone_of": original} | changes)
    assert (answer.status_code, [error["pointer"] for error in answer.json()["errors"]]) == (422, [pointer])
    assert len(client.get("/jobs").json()["items"]) == 1


def test_without_clone_of_the_base_and_the_data_set_are_still_wanted(client):
    answer = client.post("/jobs", json={})
    assert {error["pointer"] for error in answer.json()["errors"]} == {"#/base_model", "#/dataset"}


def test_a_clone_asked_for_twice_with_one_key_is_one_job(client, ready_dataset):
    original = create(client)
    headers = {"Idempotency-Key": "c1"}
    first, again = (client.post("/jobs", json={"clone_of": original}, headers=headers) for _ in range(2))
    assert (again.status_code, again.json()) == (202, first.json())
    other = client.post("/jobs", json={"clone_of": original, "seed": 0}, headers=headers)
    assert other.status_code == 422


@ON_BOTH
def test_a_batch_makes_one_job_for_every_combination(client, ready_dataset):
    answer = batch(client, name="sweep")
    assert answer.status_code == 202, answer.text
    made = answer.json()
    assert answer.headers["location"] == f"/jobs/batch/{made['id']}"
    assert [job["overrides"] for job in made["jobs"]] == [
        {"method.r": r, "hyperparameters.learning_rate": rate} for r in (8, 16) for rate in (1e-4, 2e-4)
    ]
    assert made["jobs"][0]["name"] == "sweep r=8, learning_rate=0.0001"
    assert (made["states"], made["num_jobs"], made["has_ended"], made["best"]) == ({"queued": 4}, 4, False, None)
    assert client.get(answer.headers["location"]).json() == made
    read = client.get(f"/jobs/{made['jobs'][3]['id']}").json()
    assert (read["method"]["r"], read["hyperparameters"]["learning_rate"], read["batch"]) == (16, 2e-4, made["id"])
    create(client)
    listed = client.get("/jobs", params={"batch": made["id"]}).json()["items"]
    assert {job["id"] for job in listed} == {job["id"] for job in made["jobs"]}
    (summary,) = client.get("/jobs/batch").json()["items"]
    assert (summary["id"], summary["states"]) == (made["id"], {"queued": 4})


@pytest.mark.parametrize(
    ("grid", "pointers", "says"),
    [
        ({"method.r": [8, 0]}, {"#/grid/method.r/1"}, "method.r = 0"),
        ({"seed": [1], "method.r": [0, 8, 900]}, {"#/grid/method.r/0", "#/grid/method.r/2"}, "method.r = 0"),
        ({"method.colour": [1]}, {"#/grid/method.colour/0"}, "method.colour = 1"),
        ({"base_model": ["tiny", "no such model"]}, {"#/grid/base_model/1"}, "no such model"),
        ({"dataset": ["ds_ready", "ds_nowhere"]}, {"#/grid/dataset/1"}, "ds_nowhere"),
        ({"method.r": [8, 8]}, {"#/grid/method.r"}, "twice"),
        ({"method": [{"r": 8}], "method.r": [4]}, {"#/grid/method.r"}, "give one of the two"),
        ({"seed": list(range(51)), "method.r": [1, 2]}, {"#/grid"}, "102 jobs"),
        ({}, {"#/grid"}, ""),
        ({"method.r": []}, {"#/grid/method.r"}, ""),
    ],
)
def test_a_wrong_value_of_a_grid_is_pointed_at_and_makes_nothing(
    client, api_database, ready_dataset, grid, pointers, says
):
    answer = batch(client, grid=grid)
    assert answer.status_code == 422, answer.text
    assert {error["pointer"] for error in answer.json()["errors"]} == pointers
    assert says in answer.text
    assert client.get("/jobs").json()["items"] == []
    assert client.get("/jobs/batch").json()["items"] == []


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"colour": 1}, "#/job/colour"),
        ({"seed": -1}, "#/job/seed"),
        ({"dataset": "ds_nowhere"}, "#/job/dataset"),
        ({"clone_of": "job_nowhere"}, "#/job/clone_of"),
    ],
)
def test_what_is_wrong_with_the_job_itself_is_pointed_at_once(client, ready_dataset, changes, pointer):
    answer = batch(client, job=BODY | changes)
    assert (answer.status_code, [error["pointer"] for error in answer.json()["errors"]]) == (422, [pointer])


def test_values_that_do_not_go_together_are_all_pointed_at(client, ready_dataset):
    answer = batch(client, grid={"hyperparameters.batch_size": [6], "hyperparameters.micro_batch_size": [4]})
    pointers = {error["pointer"] for error in answer.json()["errors"]}
    assert pointers == {"#/grid/hyperparameters.batch_size/0", "#/grid/hyperparameters.micro_batch_size/0"}


def test_a_grid_may_set_what_the_job_leaves_out_and_a_batch_may_begin_with_a_job(client, ready_dataset):
    made = batch(client, job={"dataset": "ds_ready"}, grid={"base_model": ["tiny"]}).json()
    assert client.get(f"/jobs/{made['jobs'][0]['id']}").json()["base_model"] == "tiny"
    original = create(client, seed=9)
    cloned = batch(client, job={"clone_of": original}, grid={"method.r": [2]}).json()
    read = client.get(f"/jobs/{cloned['jobs'][0]['id']}").json()
    assert (read["seed"], read["clone_of"], read["method"]["r"]) == (9, original, 2)


@ON_BOTH
@pytest.mark.parametrize(
    ("changes", "grid"),
    [
        ({"name": 5}, {"name": ["a", "b"]}),
        ({"name": "a\0b"}, {"name": ["a"]}),
        ({"name": "n" * 300}, {"name": ["a"]}),
        ({"hyperparameters": {"learning_rate": "\0"}}, {"hyperparameters.learning_rate": [1e-4]}),
        ({"hyperparameters": {"learning_rate": "\0"}}, {"hyperparameters": [{"learning_rate": 1e-4}]}),
    ],
)
def test_what_the_grid_replaces_is_neither_read_nor_kept(client, ready_dataset, changes, grid):
    made = batch(client, job=BODY | changes, grid=grid).json()
    assert (made["request"] | {"hyperparameters": {}}, made["name"]) == (
        BODY | {"hyperparameters": {}},
        "colours on tiny",
    )
    assert client.get(f"/jobs/batch/{made['id']}").json() == made


def test_what_only_some_combinations_replace_is_kept(client, ready_dataset):
    job = BODY | {"method": {"r": 4, "alpha": 2.0}}
    made = batch(client, job=job, grid={"method": [{"r": 8}, {"r": 16, "alpha": 4.0}]}).json()
    assert made["request"]["method"] == {"alpha": 2.0}


@ON_BOTH
def test_a_batch_asked_for_twice_with_one_key_is_one_batch(client, ready_dataset):
    first, again = (batch(client, headers={"Idempotency-Key": "b1"}) for _ in range(2))
    assert (again.status_code, again.json()) == (202, first.json())
    assert len(client.get("/jobs").json()["items"]) == 4


@ON_BOTH
def test_the_best_job_of_a_batch_has_the_lowest_eval_loss_of_those_that_hold(client, api_database, ready_dataset):
    made = batch(client).json()
    losses = {0: 0.5, 1: 0.3, 2: 0.1}
    with api_database.write() as session:
        for index, loss in losses.items():
            jobs.record(session, made["jobs"][index]["id"], metrics={"eval_loss": loss})
    ends = (WorkState.SUCCEEDED, WorkState.SUCCEEDED, WorkState.FAILED)
    for end in ends:
        assert finish(api_database, claim(api_database), end)
    read = client.get(f"/jobs/batch/{made['id']}").json()
    assert read["best"] == made["jobs"][1]["id"], "the failed one has a lower loss and no adapter"
    assert read["states"] == {"failed": 1, "queued": 1, "succeeded": 2}
    assert read["jobs"][0]["metrics"] == {"eval_loss": 0.5}


@ON_BOTH
def test_a_batch_is_cancelled_as_a_whole(client, api_database, ready_dataset):
    made = batch(client).json()
    done, running = claim(api_database), claim(api_database)
    assert finish(api_database, done)
    path = f"/jobs/batch/{made['id']}"
    read = client.post(f"{path}/cancel").json()
    assert read["states"] == {"cancelled": 2, "cancelling": 1, "succeeded": 1}
    assert finish(api_database, running, WorkState.CANCELLED)
    assert client.post(f"{path}/cancel").json()["has_ended"] is True
    client.delete(f"/jobs/{done.work_id}")
    assert client.get(path).json()["num_jobs"] == 3, "a deleted job is hidden here as well"


def test_an_unknown_batch_is_404(client, ready_dataset):
    assert client.get("/jobs/batch/batch_x").status_code == 404
    assert client.post("/jobs/batch/batch_x/cancel").status_code == 404
    assert client.get("/jobs", params={"batch": "batch_x"}).json()["items"] == []


def test_a_long_name_leaves_room_for_what_tells_the_jobs_apart(client, api_database, ready_dataset):
    made = batch(client, name="n" * 200).json()
    names = {job["name"] for job in made["jobs"]}
    assert len(names) == 4
    assert max(map(len, names)) <= 200
    with api_database.read() as session:
        assert session.get_one(Batch, made["id"]).name == "n" * 200


def test_batches_are_paged_newest_first(client, ready_dataset):
    made = [batch(client, grid={"seed": [n]}).json()["id"] for n in range(3)]
    first = client.get("/jobs/batch", params={"limit": 2}).json()
    rest = client.get("/jobs/batch", params={"cursor": first["next_cursor"]}).json()
    assert [item["id"] for item in first["items"] + rest["items"]] == made[::-1]


def test_a_clone_of_an_ended_job_can_be_made(client, api_database, ready_dataset):
    assert clone(client, bring_to(client, api_database, WorkState.FAILED)).status_code == 202
