"""`Idempotency-Key` while its request is being answered: 409, and nothing is made twice."""

import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest
from sqlmodel import Session

from models import dataset as datasets
from models import idempotency
from tests.conftest import wait_for
from tests.integration.conftest import colours
from tests.integration.lifecycles import BODY

ON_BOTH = pytest.mark.parametrize("client", ["sqlite", "postgres"], indirect=True)
HEADERS = {"Idempotency-Key": "k"}
AT_ONCE = 50


def post(client, **changes):
    return client.post("/jobs", json=BODY | changes, headers=HEADERS)


def is_in_flight(answer) -> bool:
    return (answer.status_code, answer.json().get("type")) == (409, "/problems/in-flight")


@pytest.fixture
def held_up(client, api_database, ready_dataset):
    """Two requests with one key, while a lock in the database holds up whichever comes first; an event ends that."""
    go_on, waiting = threading.Event(), threading.Event()

    def hold():
        with api_database.write() as session:
            datasets.hold_alone(session, ready_dataset, project="default")
            waiting.set()
            go_on.wait(60)

    with ThreadPoolExecutor(3) as pool:
        holder = pool.submit(hold)
        assert waiting.wait(60)
        yield [pool.submit(post, client) for _ in range(2)], go_on
        go_on.set()
        holder.result()


@ON_BOTH
def test_a_key_in_flight_is_a_conflict_that_says_when_to_ask_again(client, held_up):
    both, go_on = held_up
    (done,), (waits,) = wait(both, timeout=20, return_when=FIRST_COMPLETED)
    assert is_in_flight(done.result())
    assert done.result().headers["retry-after"] == "1"
    other = client.post("/jobs/batch", json={"job": BODY, "grid": {"seed": [1]}}, headers=HEADERS)
    assert is_in_flight(other), "a key is a key, whatever it is sent with"
    assert not waits.done()
    go_on.set()
    assert waits.result().status_code == 202
    again = post(client)
    assert (again.status_code, again.json()) == (202, waits.result().json())
    assert post(client, seed=5).status_code == 422


@ON_BOTH
def test_fifty_requests_at_once_with_one_key_make_one_job(client, ready_dataset):
    gate = threading.Barrier(AT_ONCE)

    def at_once(_):
        gate.wait()
        return post(client)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(at_once, range(AT_ONCE)))
    made = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    assert all(is_in_flight(answer) for answer in answers if answer.status_code != 202)
    assert made
    assert set(made) == {post(client).json()["id"]}
    assert len(client.get("/jobs").json()["items"]) == 1


@pytest.mark.parametrize("client", ["postgres"], indirect=True)
def test_a_key_in_flight_in_another_process_is_seen_and_a_crash_there_leaves_nothing(
    client, api_database, ready_dataset
):
    elsewhere = Session(api_database.engine)
    assert idempotency.hold(elsewhere, project="default", key="k")
    assert is_in_flight(post(client))
    assert client.post("/jobs", json=BODY, headers={"Idempotency-Key": "other"}).status_code == 202
    elsewhere.connection().invalidate()  # as when its process dies
    elsewhere.close()
    assert wait_for(lambda: (answer := post(client)).status_code == 202 and answer, within_s=20)


@ON_BOTH
def test_a_request_that_was_refused_is_in_flight_no_more(client, ready_dataset):
    assert post(client, dataset="ds_nowhere").status_code == 422
    assert post(client, seed=-1).status_code == 422
    assert post(client).status_code == 202


def test_an_upload_at_the_same_moment_is_stored_once(client, settings):
    """The costly part, storing the file, comes before the transaction: the second must not begin with it."""
    gate, data = threading.Barrier(8), colours(60)

    def upload(_):
        gate.wait()
        return client.post("/datasets", files={"file": ("c.zip", data)}, headers=HEADERS)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(upload, range(8)))
    made = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    assert all(is_in_flight(answer) for answer in answers if answer.status_code != 202)
    assert len(set(made)) == 1
    assert len(client.get("/datasets").json()["items"]) == 1
