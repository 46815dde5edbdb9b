"""Data sets of the Hub by their name: asked for over the API, read by a child of a worker from a Hub on loopback."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models import control
from models.states import WorkState
from models.work import Work
from tests.conftest import wait_for
from tests.integration.conftest import colours
from tests.integration.test_api_edges import open_client  # noqa: F401 - a fixture
from tests.integration.test_api_inputs import errors_of
from tests.integration.test_dataset_sources import ask, there, work  # noqa: F401 - fixtures
from tests.unit.ingest.hub import serving_hub

OPEN = {"hub_datasets": True}
FILE = "data/train-00000-of-00001.parquet"


@pytest.fixture
def hub(monkeypatch):
    with serving_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def client(open_client):  # noqa: F811
    return open_client(**OPEN)


def pictures(count, word="red"):
    """Return a Parquet file as `datasets` pushes one."""
    rows = []
    for number in range(count):
        out = io.BytesIO()
        Image.new("RGB", (48, 48), (200 - number, number * 5, 0)).save(out, "PNG")
        rows.append({"image": {"bytes": out.getvalue(), "path": None}, "label": f"{word} {number}"})
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def state_of(api_database, work_id):
    with api_database.read() as session:
        return session.get_one(Work, work_id).state


def test_a_data_set_of_the_hub_becomes_a_ready_one(client, work, hub):  # noqa: F811
    commit = hub.commit("org/colours", {FILE: pictures(12)})
    made = ask(client, "hf://org/colours", columns={"caption": "label"})
    assert (made["name"], made["filename"], made["source"]) == ("colours", "colours.parquet", "hf://org/colours")
    ended = work(client, made["id"], **OPEN)
    assert (ended["state"], ended["num_examples"], ended["container"]) == ("ready", 12, "parquet")
    assert ended["source"] == f"hf://org/colours@{commit}"
    assert ended["size_bytes"] > 0
    examples = client.get(f"/datasets/{made['id']}/examples").json()["items"]
    assert "red 0" in json.dumps(examples)


def test_a_private_data_set_is_read_with_the_token_of_the_worker(client, work, hub, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.commit("org/colours", {FILE: pictures(12)}, private=True)
    made = ask(client, "hf://org/colours", columns={"caption": "label"})
    assert work(client, made["id"], **OPEN)["state"] == "ready"


def test_the_next_attempt_reads_the_commit_of_the_first(client, work, hub, api_database):  # noqa: F811
    """The worker is told to stop while the file comes; by the next attempt the branch stands for another commit."""
    first = hub.commit("org/colours", {FILE: pictures(12)})
    hub.slow.add(FILE)
    made = ask(client, "hf://org/colours@main?split=train", columns={"caption": "label"})
    slot = work.start(**OPEN)
    path = f"/datasets/{made['id']}"
    pinned = f"hf://org/colours@{first}?split=train"
    wait_for(lambda: client.get(path).json()["source"] == pinned, what="the commit")
    slot.stop()
    slot.join()
    assert state_of(api_database, made["id"]) is WorkState.QUEUED
    hub.commit("org/colours", {FILE: pictures(30, word="blue")})
    hub.slow.clear()
    ended = work(client, made["id"], **OPEN)
    assert (ended["state"], ended["num_examples"], ended["source"]) == ("ready", 12, pinned)


def test_a_fetch_from_the_hub_has_a_deadline(client, work, hub):  # noqa: F811
    hub.commit("org/colours", {FILE: pictures(12)})
    hub.slow.add(FILE)
    ended = work(client, ask(client, "hf://org/colours")["id"], seconds=4, **OPEN)
    assert (ended["state"], ended["failure"]["code"], ended["failure"]["retryable"]) == ("failed", "source", True)
    assert "did not come within 4 s" in ended["failure"]["detail"]


def test_a_fetch_from_the_hub_ends_with_the_lease(client, work, hub, api_database):  # noqa: F811
    hub.commit("org/colours", {FILE: pictures(12)})
    hub.slow.add(FILE)
    made = ask(client, "hf://org/colours")
    work.start(**OPEN)
    wait_for(lambda: any(FILE in asked for asked in hub.asked), what="the question for the file")
    with api_database.write() as session:
        session.get_one(Work, made["id"]).fence += 1
    other = client.post("/datasets", files={"file": ("colours.zip", colours(12))}).json()
    wait_for(lambda: client.get(f"/datasets/{other['id']}").json()["state"] == "ready", what="the next work")


def test_a_cancel_ends_a_fetch_from_the_hub(client, work, hub, api_database):  # noqa: F811
    hub.commit("org/colours", {FILE: pictures(12)})
    hub.slow.add(FILE)
    made = ask(client, "hf://org/colours")
    work.start(**OPEN)
    wait_for(lambda: any(FILE in asked for asked in hub.asked), what="the question for the file")
    with api_database.write() as session:
        assert control.cancel(session, made["id"]) is WorkState.CANCELLING
    wait_for(lambda: state_of(api_database, made["id"]) is WorkState.CANCELLED, what="the cancel")


def test_what_the_child_says_is_the_failure(client, work, hub):  # noqa: F811
    ended = work(client, ask(client, "hf://org/nothing")["id"], **OPEN)
    assert (ended["failure"]["code"], ended["failure"]["retryable"]) == ("source", False)
    assert ended["failure"]["detail"] == 'The data set "hf://org/nothing" is not on the Hub, or it is private.'
    assert "HF_TOKEN" in ended["failure"]["remedy"]


def test_the_bound_on_uploads_holds(client, work, hub):  # noqa: F811
    hub.commit("org/colours", {FILE: pictures(40)})
    ended = work(client, ask(client, "hf://org/colours")["id"], max_upload_bytes=500, **OPEN)
    assert "has more than 500 bytes" in ended["failure"]["detail"]


def test_the_settings_of_the_worker_decide(client, work, hub):  # noqa: F811
    hub.commit("org/colours", {FILE: pictures(12)})
    ended = work(client, ask(client, "hf://org/colours")["id"])
    assert (ended["state"], hub.asked) == ("failed", [])
    assert "LENSMITH_HUB_DATASETS=true" in ended["failure"]["remedy"]


def test_by_default_nothing_is_fetched_from_the_hub(open_client):  # noqa: F811
    (said,) = errors_of(open_client().post("/datasets", json={"source": "hf://org/colours"})).values()
    assert "LENSMITH_HUB_DATASETS=true" in said


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf://org/some.name@refs/convert/parquet?config=a&split=b", "some.name"),
        ("hf://datasets/org/name", "name"),
        ("hf://org/name@v1.0", "name"),
    ],
)
def test_a_data_set_is_named_as_users_know_it(source, name, client):
    assert ask(client, source)["name"] == name


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("hf://name", "names no data set of the Hub"),
        ("hf://org/name/data/train.parquet", "names no data set of the Hub"),
        ("hf://org/../name", "names no data set of the Hub"),
        ("hf://org/name@../../other", "names no data set of the Hub"),
        ("hf://org/name@", "names no data set of the Hub"),
        ("hf://me:secret@org/name", "names no data set of the Hub"),
        ("hf://org/name::zip://x", "names no data set of the Hub"),
        ("hf://org/name?splits=train", "only config and split are known"),
        ("hf://org/name?split=a&split=b", "only config and split are known"),
        ("hf://org/name?split=", "which is no name of one"),
        ("hf://org/name?split=train[:10]", "which is no name of one"),
        ("hf://org/name?split", "a query that is not understood"),
        ("hf://org/name?a=1&b=2&c=3", "a query that is not understood"),
    ],
)
def test_a_name_that_the_hub_would_not_take_is_refused_at_once(source, says, client):
    (pointer, detail), *more = errors_of(client.post("/datasets", json={"source": source})).items()
    assert (pointer, more) == ("#/source", [])
    assert says in detail
