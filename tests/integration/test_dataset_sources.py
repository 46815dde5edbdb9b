"""Data sets by their source: asked for over the API, fetched by a worker from a real server on loopback."""

import json

import pytest

from core.queue import Queue
from core.storage import Storage
from models import control
from models.dataset import Dataset
from models.states import Kind, WorkState
from models.work import Work
from tests.conftest import wait_for
from tests.integration.conftest import colours
from tests.integration.test_api_edges import open_client  # noqa: F401 - a fixture
from tests.integration.test_api_inputs import errors_of
from tests.unit.ingest.elsewhere import serving
from worker.kinds import Rooms
from worker.runner import Slot
from worker.sources import FETCH_S, Sources
from worker.validation import Validation

OPEN = {"remote_images": True, "source_buckets": "open, other"}


@pytest.fixture
def there():
    with serving() as server:
        yield server


@pytest.fixture
def client(open_client):  # noqa: F811
    return open_client(**OPEN)


@pytest.fixture
def work(settings, api_database, there):
    """Return a function that starts a worker and returns a data set as it stands when its validation has ended."""
    slots = []

    def start(*, seconds=FETCH_S, **changes):
        allowed = settings.model_copy(update=OPEN | changes)
        rooms = Rooms(api_database, Storage.from_url(settings.resolved_storage_url), settings.layout)
        sources = Sources(allowed, guard=there.guard(), seconds=seconds)
        kinds = {Kind.VALIDATION: Validation(rooms, sources, remote_images=allowed.remote_images)}
        slots.append(
            Slot(
                Queue.CPU,
                worker_id="wrk_1",
                database=api_database,
                settings=allowed,
                kinds=kinds,
            )
        )
        slots[-1].start()
        return slots[-1]

    def run(client, dataset_id, **changes):
        start(**changes)
        path = f"/datasets/{dataset_id}"
        wait_for(lambda: client.get(path).json()["state"] != "validating", what="the end of the validation")
        return client.get(path).json()

    run.start = start
    yield run
    for slot in slots:
        slot.stop()
        slot.join()


def ask(client, source, **more):
    answer = client.post("/datasets", json={"source": source} | more)
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_a_file_at_a_url_becomes_a_ready_data_set(client, work, there, settings):
    data = colours(12)
    url = there.gives("/data/colours.zip?signature=secret", data)
    made = ask(client, url)
    assert (made["name"], made["filename"], made["source"]) == (
        "colours",
        "colours.zip",
        there.url("/data/colours.zip"),
    )
    assert (made["state"], made["container"], made["sha256"], made["size_bytes"]) == ("validating", None, None, None)
    ended = work(client, made["id"])
    assert (ended["state"], ended["num_examples"]) == ("ready", 12)
    assert (ended["container"], ended["size_bytes"]) == ("zip", len(data))
    kept = settings.layout.storage / "default/datasets" / made["id"] / f"upload-{ended['sha256']}"
    assert kept.read_bytes() == data


def test_a_source_is_read_as_the_body_says(client, work, there):
    """The body's `on_bad_row` was taken and forgotten: the first bad row refused the set."""
    talks = [[{"role": "user", "content": str(i)}, {"role": "assistant", "content": "x" * i}] for i in range(1, 13)]
    lines = [json.dumps({"talk": talk}) for talk in talks] + ["{"]
    url = there.gives("/a.jsonl", "\n".join(lines).encode())
    made = ask(client, url, on_bad_row="skip", columns={"messages": "talk"})
    assert (made["on_bad_row"], made["columns"]) == ("skip", {"messages": "talk"})
    dataset = work(client, made["id"])
    assert (dataset["state"], dataset["num_examples"], dataset["num_skipped"]) == ("ready", 12, 1)


def test_the_next_attempt_reads_the_bytes_of_the_first(client, work, there, api_database, settings):
    """The worker dies after the file was stored; what lies at the source is another file by then."""
    made = ask(client, there.gives("/colours.zip", colours(30)))
    stored = Storage.from_url(settings.resolved_storage_url)
    with api_database.write() as session:
        dataset = session.get_one(Dataset, made["id"])
        sha256 = stored.put_bytes("first", colours(12)).sha256
        stored.put_bytes(dataset.fetched_key(sha256), colours(12))
        dataset.container, dataset.upload_sha256, dataset.upload_bytes = "zip", sha256, len(colours(12))
        session.add(dataset)
    ended = work(client, made["id"])
    assert (ended["num_examples"], ended["sha256"], there.asked) == (12, sha256, [])


@pytest.mark.parametrize(
    ("path", "data", "says"),
    [
        ("/data.png", b"\x89PNG\r\n\x1a\n", "The file is a PNG image. Taken are:"),
        ("/data.zip", b"", "The file is empty."),
        ("/data.json", b'[{"a": 1}]', "The file is a JSON array"),
        ("/data.jsonl", b"x" * 20_001, "has more than 20,000 bytes."),
    ],
)
def test_a_file_that_an_upload_would_not_be_taken_of_fails_with_the_same_sentence(
    path, data, says, client, work, there
):
    ended = work(client, ask(client, there.gives(path, data))["id"], max_upload_bytes=20_000)
    assert (ended["state"], ended["failure"]["code"], ended["failure"]["retryable"]) == ("failed", "bad_data", False)
    assert says in ended["failure"]["detail"]
    assert ended["failure"]["remedy"]


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (403, False), (410, False), (503, True), (429, True)])
def test_a_source_of_which_nothing_came_says_nothing_of_the_data(status, retryable, client, work, there):
    """It was `bad_data`, so the command line ended with "the data was refused"; and a 404 could be tried again."""
    url = there.gives("/gone.zip?signature=secret", b"", status=status)
    failure = work(client, ask(client, url)["id"])["failure"]
    assert (failure["code"], failure["retryable"]) == ("source", retryable)
    assert failure["detail"] == f'The source "{there.url("/gone.zip")}" answers {status}.'


def test_the_worker_asks_the_guard_again(client, work, there):
    ended = work(client, ask(client, there.leads("/a.zip", "https://169.254.169.254/latest/"))["id"])
    assert (ended["failure"]["code"], ended["failure"]["retryable"]) == ("source", False)
    assert "not on the public internet" in ended["failure"]["detail"]


def test_the_settings_of_the_worker_decide(client, work, there):
    ended = work(client, ask(client, there.gives("/a.zip", colours(12)))["id"], remote_images=False)
    assert (ended["state"], there.asked) == ("failed", [])
    assert "LENSMITH_REMOTE_IMAGES=true" in ended["failure"]["remedy"]


def drips(server, path):
    """Have a file come without end, a byte at a time."""

    def answer(handler):
        handler.send_response(200)
        for name, value in {"Content-Length": "1000000", "ETag": '"1"', "Last-Modified": LONG_AGO}.items():
            handler.send_header(name, value)
        handler.end_headers()
        while not server.released.wait(0.02):
            handler.wfile.write(b"x")

    server.answers[path] = answer


def hangs(server, path):
    """Have a server take the request and say nothing."""
    server.answers[path] = lambda _handler: server.released.wait()


@pytest.fixture
def s3(monkeypatch):
    """A server that answers as S3 does, where the worker's variables lead."""
    with serving(tls=False) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        yield server


@pytest.mark.parametrize("scheme", ["https", "s3"])
@pytest.mark.parametrize("slowly", [drips, hangs])
def test_a_worker_that_lost_its_lease_leaves_the_fetch_and_takes_the_next_work(
    slowly, scheme, client, work, there, s3, api_database
):
    """Only a worker's own end was asked for: a fenced one went on for half an hour, beside its successor."""
    server, path, source = {
        "https": (there, "/a.zip", there.url("/a.zip")),
        "s3": (s3, "/open/a.zip", "s3://open/a.zip"),
    }[scheme]
    slowly(server, path)
    made = ask(client, source)
    work.start()
    wait_for(lambda: server.asked, what="the request")
    with api_database.write() as session:
        session.get_one(Work, made["id"]).fence += 1
    other = client.post("/datasets", files={"file": ("colours.zip", colours(12))}).json()
    wait_for(
        lambda: client.get(f"/datasets/{other['id']}").json()["state"] == "ready", within_s=60, what="the next work"
    )
    with api_database.read() as session:
        assert session.get_one(Work, made["id"]).state is WorkState.RUNNING  # nothing was written without the fence


def test_a_cancel_ends_a_fetch(client, work, there, api_database):
    hangs(there, "/a.zip")
    made = ask(client, there.url("/a.zip"))
    work.start()
    wait_for(lambda: there.asked, what="the request")
    with api_database.write() as session:
        assert control.cancel(session, made["id"]) is WorkState.CANCELLING

    def state():
        with api_database.read() as session:
            return session.get_one(Work, made["id"]).state

    wait_for(lambda: state() is WorkState.CANCELLED, within_s=60, what="the cancel")


@pytest.mark.parametrize("slowly", [drips, hangs])
def test_an_object_that_comes_too_slowly_may_be_tried_again(slowly, client, work, s3):
    slowly(s3, "/open/a.zip")
    ended = work(client, ask(client, "s3://open/a.zip")["id"], seconds=0.5)
    assert (ended["failure"]["code"], ended["failure"]["retryable"]) == ("source", True)
    assert ended["failure"]["detail"] == 'The source "s3://open/a.zip" did not come within 0.5 s.'


def test_a_worker_that_is_told_to_stop_gives_a_fetch_back(client, work, there, api_database):
    drips(there, "/a.zip")
    made = ask(client, there.url("/a.zip"))
    slot = work.start()
    wait_for(lambda: there.asked, what="the request")
    slot.stop()
    slot.join()
    with api_database.read() as session:
        found = session.get_one(Work, made["id"])
        assert (found.state, found.lost_attempts) == (WorkState.QUEUED, 0)
    assert client.get(f"/datasets/{made['id']}").json()["state"] == "validating"


@pytest.mark.parametrize(("allowed", "says"), [(True, "public internet"), (False, "LENSMITH_REMOTE_IMAGES=true")])
def test_the_worker_tells_the_child_whether_images_are_fetched(allowed, says, client, work):
    row = b'{"image": "https://10.0.0.1/a.png", "caption": "A square."}'
    made = client.post("/datasets", files={"file": ("a.jsonl", row)}).json()
    failure = work(client, made["id"], remote_images=allowed)["failure"]
    assert says in failure["detail"] + failure["remedy"]


def test_an_object_of_an_allowed_bucket_becomes_a_ready_data_set(client, work, monkeypatch):
    data = colours(12)
    with serving(tls=False) as s3:
        s3.gives("/open/sets/colours.zip", data, Content_Length=str(len(data)), ETag='"1"', Last_Modified=LONG_AGO)
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }.items():
            monkeypatch.setenv(name, value)
        ended = work(client, ask(client, "s3://open/sets/colours.zip", name="Colours")["id"])
    assert (ended["name"], ended["state"], ended["num_examples"]) == ("Colours", "ready", 12)
    assert ended["source"] == "s3://open/sets/colours.zip"


LONG_AGO = "Mon, 02 Jan 2006 15:04:05 GMT"


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (403, False), (401, False), (400, True)])
def test_an_object_that_is_not_there_or_is_closed_will_not_be_there_later(status, retryable, client, work, s3):
    s3.gives("/open/gone.zip", b"", status=status)
    failure = work(client, ask(client, "s3://open/gone.zip")["id"])["failure"]
    assert (failure["code"], failure["retryable"]) == ("source", retryable)
    assert failure["detail"] == 'The source "s3://open/gone.zip" could not be read.'


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("http://images.test/a.zip", "is no source of a data set"),
        ("file:///etc/passwd", "is no source of a data set"),
        ("/etc/passwd", "is no source of a data set"),
        ("hf://org/name", "LENSMITH_HUB_DATASETS"),
        ("https://me:secret@images.test/a.zip", "a name or a password in the URL"),
        ("https://images.test\\@inside.test/a.zip", "a backslash"),
        ("https://0x7f000001/a.zip", "which is no name"),
        ("s3://closed/a.zip", "LENSMITH_SOURCE_BUCKETS"),
        ("s3:///a.zip", "LENSMITH_SOURCE_BUCKETS"),
        ("s3://open/", "names no object"),
        ("s3://open", "names no object"),
        ("a\u0000b", "Control characters"),
        ("", "at least 1 character"),
        ("https://images.test/" + "a" * 2048, "at most 2048 characters"),
        (7, "valid string"),
    ],
)
def test_a_source_that_no_worker_would_fetch_is_refused_at_once(source, says, client):
    (pointer, detail), *more = errors_of(client.post("/datasets", json={"source": source})).items()
    assert (pointer, more) == ("#/source", [])
    assert says in detail
    assert client.get("/datasets").json()["items"] == []


def test_by_default_nothing_is_fetched(open_client):  # noqa: F811
    shut = open_client()
    for source, variable in (("https://images.test/a", "REMOTE_IMAGES"), ("s3://open/a", "SOURCE_BUCKETS")):
        assert variable in errors_of(shut.post("/datasets", json={"source": source}))["#/source"]


def test_the_body_of_a_source_is_checked_like_any_json(client):
    assert list(errors_of(client.post("/datasets", json={"source": "s3://open/a", "nmae": "x"}))) == ["#/nmae"]
    assert list(errors_of(client.post("/datasets", json={}))) == ["#/source"]
    assert list(errors_of(client.post("/datasets", json=[]))) == ["#"]
    broken = client.post("/datasets", content=b'{"a":\n  nope}', headers={"Content-Type": "application/json"})
    assert "line 2, column" in errors_of(broken)["#"]
    large = client.post("/datasets", json={"source": "s3://open/a", "name": "x" * 70_000})
    assert large.status_code == 413
    assert list(errors_of(client.post("/datasets"))) == ["#/file"]


def test_the_same_key_asks_for_one_data_set(client, api_database):
    headers = {"Idempotency-Key": "once"}
    first, second = (client.post("/datasets", json={"source": "s3://open/a.zip"}, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    assert second.headers["Idempotent-Replayed"] == "true"
    assert first.headers["Location"] == f"/datasets/{first.json()['id']}"
    other = client.post("/datasets", json={"source": "s3://open/b.zip"}, headers=headers)
    assert other.status_code == 422
    with api_database.read() as session:
        assert session.get_one(Work, first.json()["id"]).state is WorkState.QUEUED
