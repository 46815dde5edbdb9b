"""`DELETE /datasets/{id}`: what goes, what stays, what is refused, and a job that comes at the same moment."""

import threading

import pytest

from core.queue import Queue
from models import claims, leases
from models.dataset import Dataset, image_key
from models.states import Kind, WorkState
from models.work import Work
from tests.integration.conftest import colours

BODY = {"base_model": "tiny", "dataset": "ds_ready"}
ROUNDS = 30
ON_BOTH = pytest.mark.parametrize("client", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def storage(client):
    return client.app.state.services.storage


def create(client, **changes) -> str:
    answer = client.post("/jobs", json=BODY | changes)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def run(database, target: WorkState) -> None:
    """Claim the next job and end it like this."""
    with database.write() as session:
        claim = claims.claim(session, Queue.GPU, worker_id="w", lease_s=60)
        assert leases.finish(session, claim, target)


def delete(client, dataset_id="ds_ready"):
    return client.delete(f"/datasets/{dataset_id}")


@ON_BOTH
def test_a_deleted_data_set_is_found_nowhere(client, ready_dataset):
    answer = delete(client)
    assert (answer.status_code, answer.content) == (204, b"")
    for path in ("/datasets/ds_ready", "/datasets/ds_ready/report"):
        assert client.get(path).status_code == 404, path
    assert client.get("/datasets").json()["items"] == []
    again = delete(client)
    assert again.status_code == 404
    assert "ds_ready" in again.json()["detail"]
    refused = client.post("/jobs", json=BODY)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "#/dataset")


def test_its_own_objects_go_and_the_shared_pictures_stay(client, ready_dataset, storage):
    own = [f"default/datasets/ds_ready/{name}" for name in ("upload", f"records-{'d' * 64}.parquet", "report-1.json")]
    others = [image_key("default", "a" * 64), "default/datasets/ds_ready2/upload"]
    for key in own + others:
        storage.put_bytes(key, b"x")
    delete(client)
    assert {key: storage.has(key) for key in own + others} == dict.fromkeys(own, False) | dict.fromkeys(others, True)


@ON_BOTH
@pytest.mark.parametrize("ended", [WorkState.SUCCEEDED, WorkState.FAILED])
def test_a_job_that_has_ended_keeps_what_it_learned_from(client, api_database, ready_dataset, ended):
    job_id = create(client)
    run(api_database, ended)
    before = client.get(f"/jobs/{job_id}").json()
    assert delete(client).status_code == 204
    assert client.get(f"/jobs/{job_id}").json() == before
    assert (before["dataset"], before["dataset_digest"]) == ("ds_ready", "d" * 64)


@ON_BOTH
def test_a_data_set_in_use_is_refused_with_the_jobs_that_use_it(client, api_database, ready_dataset, storage):
    storage.put_bytes("default/datasets/ds_ready/upload", b"x")
    ended = create(client)
    run(api_database, WorkState.SUCCEEDED)
    using = [create(client), create(client)]
    with api_database.write() as session:
        claims.claim(session, Queue.GPU, worker_id="w", lease_s=60)  # one of them runs
    answer = delete(client)
    assert answer.status_code == 409
    assert answer.json()["jobs"] == using
    assert all(job_id in answer.json()["detail"] for job_id in using)
    assert ended not in answer.text
    assert client.get("/datasets/ds_ready").status_code == 200
    assert storage.has("default/datasets/ds_ready/upload")


def test_of_many_jobs_the_sentence_names_some_and_the_document_all(client, ready_dataset):
    using = [create(client) for _ in range(7)]
    answer = delete(client).json()
    assert answer["jobs"] == using
    assert f"{using[4]} and 2 more. Cancel the jobs" in answer["detail"]
    assert using[5] not in answer["detail"]


def test_a_validation_that_waits_is_withdrawn_with_its_data_set(client, api_database, storage):
    dataset_id = client.post("/datasets", files={"file": ("data.zip", colours(12))}).json()["id"]
    assert delete(client, dataset_id).status_code == 204
    assert list(storage.keys(f"default/datasets/{dataset_id}")) == []
    with api_database.write() as session:
        assert session.get_one(Work, dataset_id).state is WorkState.CANCELLED
        assert claims.claim(session, Queue.CPU, worker_id="w", lease_s=60) is None


def test_a_data_set_that_a_worker_reads_is_refused(client, api_database, storage):
    dataset_id = client.post("/datasets", files={"file": ("data.zip", colours(12))}).json()["id"]
    with api_database.write() as session:
        claim = claims.claim(session, Queue.CPU, worker_id="w", lease_s=60)
    answer = delete(client, dataset_id)
    assert (answer.status_code, answer.json()["state"]) == (409, "running")
    assert f"when GET /datasets/{dataset_id} says ready or failed" in answer.json()["detail"]
    assert client.get(f"/datasets/{dataset_id}").json()["state"] == "validating"
    with api_database.write() as session:
        leases.finish(session, claim, WorkState.FAILED)
    assert delete(client, dataset_id).status_code == 204


def test_a_store_that_refuses_leaves_nothing_half_deleted(client, ready_dataset, settings):
    """The row is what counts: an error or a crash after the commit leaves objects, and nothing that leads to them."""
    folder = settings.layout.storage / "default" / "datasets" / "ds_ready"
    folder.mkdir(parents=True)
    (folder / "upload").symlink_to("upload")  # a link to itself cannot be listed, not even by root
    assert delete(client).status_code == 204
    assert client.get("/datasets/ds_ready").status_code == 404


@ON_BOTH
def test_a_job_and_a_deletion_at_the_same_moment_never_both_succeed(client, api_database):
    def add(number: int) -> str:
        dataset_id = f"ds_{number}"
        with api_database.write() as session:
            session.add(Work(id=dataset_id, kind=Kind.VALIDATION, queue=Queue.CPU, state=WorkState.SUCCEEDED))
            session.flush()
            told = {"name": "n", "filename": "f", "container": "zip", "upload_sha256": "0" * 64, "upload_bytes": 1}
            session.add(Dataset(id=dataset_id, digest="d" * 64, **told))
        return dataset_id

    def both(dataset_id: str) -> tuple[int, int]:
        said, gate = {}, threading.Barrier(2)

        def make():
            gate.wait()
            said["job"] = client.post("/jobs", json=BODY | {"dataset": dataset_id}).status_code

        def remove():
            gate.wait()
            said["deletion"] = delete(client, dataset_id).status_code

        threads = [threading.Thread(target=act) for act in (make, remove)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return said["job"], said["deletion"]

    outcomes = {both(add(number)) for number in range(ROUNDS)}
    assert outcomes <= {(202, 409), (422, 204)}
    for job in client.get("/jobs", params={"limit": 100}).json()["items"]:
        assert client.get(f"/datasets/{job['dataset']}").status_code == 200
