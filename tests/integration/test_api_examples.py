"""`/datasets/{id}/examples` and the pictures: paging, filters, issues of a row, whose pictures may be seen."""

import hashlib
import io
import json
import shutil

import pyarrow.parquet as pq
import pytest
from PIL import Image

import api.datasets.table
from core.queue import Queue
from ingest.container import Container
from ingest.options import Options
from ingest.validate import validate
from lensmith import ApiError, Client
from models import claims, leases
from models.states import WorkState
from tests.integration.conftest import attempt_of, validation_of, zip_of
from vlm.conversation import RECORDS_FILE, Example, Message, TextPart, write_examples
from worker.kinds import Rooms

NUM_ROWS = 24
LONG = "a picture of one plain colour and of nothing else"


def picture(number: int, mode="RGB", kind="PNG", size=(48, 32)) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, (number * 9, 80, 120, 90)[: len(mode)]).save(out, kind)
    return out.getvalue()


def small_set() -> bytes:
    """Two files: one of `NUM_ROWS` rows (the third twice, the fifth with two pictures), one of a single row."""
    members, lines = {}, []
    for number in range(NUM_ROWS):
        members[f"{number}.png"] = picture(number)
        row = {"image": f"{number}.png", "question": "Which?", "answer": LONG if number == 7 else f"colour {number}"}
        lines.append(row | ({"split": "validation"} if number % 4 == 0 else {"split": "train"}))
    members["see-through.png"] = picture(40, mode="RGBA")
    members["photo.jpg"] = picture(41, kind="JPEG", size=(900, 300))
    lines[2] = lines[1]
    lines[4] = {
        "images": ["see-through.png", "photo.jpg"],
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "colour 4"}]},
        ],
        "split": "validation",
    }
    members["a.jsonl"] = "\n".join(map(json.dumps, lines)).encode()
    members["b.jsonl"] = json.dumps(
        {"image": "0.png", "question": "Again?", "answer": "yes", "split": "train"}
    ).encode()
    return zip_of(members)


@pytest.fixture
def upload(client, api_database, settings, tmp_path):
    """A function that uploads a file and has it validated, in this process; returns the data set's id."""
    rooms = Rooms(api_database, client.app.state.services.storage, settings.layout)
    validation = validation_of(rooms, settings)

    def make(data: bytes) -> str:
        dataset_id = client.post("/datasets", files={"file": ("data.zip", data)}).json()["id"]
        staging = tmp_path / dataset_id
        staging.mkdir()
        with api_database.write() as session:
            claim = claims.claim(session, Queue.CPU, worker_id="w", lease_s=60)
        attempt = attempt_of(claim, api_database, settings)
        spec = validation.prepare(attempt, staging)
        report = validate(staging / "upload", Container(spec["container"]), staging, Options(seed=spec["seed"]))
        told = {"num_examples": report.rows.kept, "num_issues": report.num_issues, "num_images": 1, "num_skipped": 0}
        result = told | {"digest": report.digest, "splits": report.splits}
        apply = validation.publish(attempt, staging, result)
        with api_database.write() as session:
            assert leases.finish(session, claim, WorkState.SUCCEEDED)
            apply(session)
        return dataset_id

    return make


@pytest.fixture
def dataset_id(upload) -> str:
    return upload(small_set())


@pytest.fixture
def examples(client, dataset_id):
    """A function that follows the cursor to the end and returns the items of every page."""

    def read(**query) -> list[dict]:
        items, cursor = [], 0
        while cursor is not None:
            answer = client.get(f"/datasets/{dataset_id}/examples", params=query | {"cursor": cursor})
            assert answer.status_code == 200, answer.text
            items += answer.json()["items"]
            before, cursor = int(cursor), answer.json()["next_cursor"]
            assert cursor is None or int(cursor) > before, "a cursor that does not move would never end"
        return items

    return read


def places(items) -> list[tuple[str, int]]:
    return [(item["file"], item["row"]) for item in items]


EVERY = [("a.jsonl", row) for row in range(1, NUM_ROWS + 1)] + [("b.jsonl", 1)]


def test_examples_come_in_stored_order_page_by_page(client, dataset_id, examples):
    assert places(examples()) == EVERY
    assert places(examples(limit=7)) == EVERY
    first = client.get(f"/datasets/{dataset_id}/examples", params={"limit": 2}).json()
    assert (len(first["items"]), first["next_cursor"]) == (2, "2")
    last = client.get(f"/datasets/{dataset_id}/examples", params={"cursor": NUM_ROWS}).json()
    assert (places(last["items"]), last["next_cursor"]) == (EVERY[-1:], None)
    beyond = client.get(f"/datasets/{dataset_id}/examples", params={"cursor": 10**9}).json()
    assert beyond == {"items": [], "next_cursor": None}


def test_an_example_shows_its_turns_its_pictures_and_what_was_said_of_it(client, dataset_id, examples):
    example = examples()[4]
    assert [turn["role"] for turn in example["messages"]] == ["user", "assistant"]
    assert [part["type"] for part in example["messages"][0]["content"]] == ["image", "image", "text"]
    assert (example["split"], example["num_answer_chars"]) == ("validation", len("colour 4"))
    changed, photo = example["images"]
    assert (photo["width_px"], photo["height_px"], photo["media_type"]) == (900, 300, "image/jpeg")
    assert (changed["width_px"], changed["height_px"], changed["media_type"]) == (48, 32, "image/png")
    assert photo["url"] == f"/datasets/{dataset_id}/images/{photo['sha256']}"
    (issue,) = example["issues"]
    assert (issue["rule"], issue["severity"], issue["pointer"]) == ("image_converted", "info", "#/images/0")
    assert issue["message"]
    assert issue["fix"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"split": "validation"}, [place for place in EVERY[:-1] if place[1] % 4 == 1]),
        ({"num_images": 2}, [("a.jsonl", 5)]),
        ({"num_images": 0}, []),
        ({"min_chars": 20}, [("a.jsonl", 8)]),
        ({"min_chars": 4, "max_chars": 8}, [place for place in EVERY[:10] if place[1] != 8]),
        ({"max_chars": 3}, [("b.jsonl", 1)]),
        ({"issue": "duplicate_example"}, [("a.jsonl", 3)]),
        ({"issue": "split_leak"}, [("b.jsonl", 1)]),  # and not the first row of the other file
        ({"issue": "bad_role"}, []),
        ({"issue": "image_converted", "split": "train"}, []),
    ],
)
def test_a_filter_keeps_what_it_says(examples, query, expected):
    assert places(examples(**query)) == expected
    assert places(examples(**query, limit=1)) == expected


def test_a_page_looks_at_a_bounded_number_of_rows(tmp_path, monkeypatch):
    """A filter that nothing meets must not read five million rows for one request."""
    monkeypatch.setattr(api.datasets.table, "MAX_SCANNED_ROWS", 40)
    turn = Message(role="assistant", content=(TextPart(text="x"),))
    rows = (Example(row=row, split="train", messages=(turn,), images=()) for row in range(1, 101))
    write_examples(tmp_path, rows, batch_size=10)
    assert pq.ParquetFile(tmp_path / RECORDS_FILE).num_row_groups == 10
    table, nothing = api.datasets.table.Table(tmp_path), api.datasets.table.Wanted(split="validation")
    starts = [0]
    while (following := table.page(nothing, start=starts[-1], limit=20)[1]) is not None:
        starts.append(following)
    assert starts == [0, 40, 80]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"limit": 101}, "#/limit"),
        ({"cursor": "x"}, "#/cursor"),
        ({"cursor": -1}, "#/cursor"),
        ({"split": "test"}, "#/split"),
        ({"issue": "colour"}, "#/issue"),
        ({"min_chars": -1}, "#/min_chars"),
        ({"colour": "red"}, "#/colour"),
    ],
)
def test_a_question_that_is_none_is_refused(client, dataset_id, query, pointer):
    answer = client.get(f"/datasets/{dataset_id}/examples", params=query)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_a_data_set_that_is_not_ready_is_refused_and_says_what_to_do(client):
    dataset_id = client.post("/datasets", files={"file": ("data.zip", small_set())}).json()["id"]
    for path in ("examples", f"images/{'0' * 64}", f"images/{'0' * 64}/thumbnail"):
        answer = client.get(f"/datasets/{dataset_id}/{path}")
        assert answer.status_code == 409, path
        assert f"Wait until GET /datasets/{dataset_id} says ready" in answer.json()["detail"]
    assert client.get("/datasets/ds_x/examples").status_code == 404


def test_the_sdk_yields_every_example_over_its_pages_and_deletes(client, dataset_id, examples):
    with Client(http=client) as sdk:
        assert places(example.model_dump() for example in sdk.datasets.examples(dataset_id, split="train")) == places(
            examples(split="train")
        )
        assert sdk.datasets.delete(dataset_id) is None
        with pytest.raises(ApiError, match="404"):
            sdk.datasets.delete(dataset_id)


def test_a_picture_is_given_as_stored_for_ever_and_not_twice(client, examples):
    for shown in [image for example in examples() for image in example["images"]]:
        answer = client.get(shown["url"])
        assert answer.status_code == 200
        assert hashlib.sha256(answer.content).hexdigest() == shown["sha256"]
        assert answer.headers["content-type"] == shown["media_type"]
        assert Image.open(io.BytesIO(answer.content)).size == (shown["width_px"], shown["height_px"])
    assert answer.headers["etag"] == f'"{shown["sha256"]}"'
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["url", "thumbnail_url"])
@pytest.mark.parametrize(
    ("given", "status"), [("{}", 304), ("W/{}", 304), ('"a", {}', 304), ("*", 304), ('"a"', 200), ("", 200)]
)
def test_a_copy_that_the_client_has_is_not_sent_again(client, examples, path, given, status):
    url = examples()[0]["images"][0][path]
    tag = client.get(url).headers["etag"]
    answer = client.get(url, headers={"If-None-Match": given.format(tag)})
    assert (answer.status_code, answer.headers["etag"]) == (status, tag)
    assert (answer.content == b"") is (status == 304)


def test_a_thumbnail_is_small_keeps_its_shape_and_is_made_once(client, examples, settings):
    photo = examples()[4]["images"][1]
    first = client.get(photo["thumbnail_url"])
    assert (first.status_code, first.headers["content-type"]) == (200, "image/webp")
    assert Image.open(io.BytesIO(first.content)).size == (256, 85)
    small = examples()[0]["images"][0]
    assert Image.open(io.BytesIO(client.get(small["thumbnail_url"]).content)).size == (48, 32), "never made larger"
    (settings.layout.storage / "default" / "images" / photo["sha256"]).unlink()
    assert client.get(photo["thumbnail_url"]).content == first.content


def test_a_picture_of_another_data_set_is_not_shown(client, upload, examples, dataset_id):
    """Pictures are stored once for a project: to know a sha256 must not be enough."""
    other = upload(zip_of({"a.png": picture(200), "data.jsonl": b'{"image": "a.png", "caption": "c"}'}))
    (theirs,) = client.get(f"/datasets/{other}/examples").json()["items"][0]["images"]
    ours = {image["sha256"] for example in examples() for image in example["images"]}
    assert theirs["sha256"] not in ours
    for sha256 in (theirs["sha256"], "0" * 64, "f" * 64, "A" * 64, "x", "%2e%2e"):
        for path in (f"images/{sha256}", f"images/{sha256}/thumbnail"):
            answer = client.get(f"/datasets/{dataset_id}/{path}")
            assert answer.status_code == 404, path
    assert client.get(theirs["url"]).status_code == 200


def test_the_pictures_of_a_deleted_data_set_are_not_shown(client, examples, dataset_id):
    image = examples()[0]["images"][0]
    assert client.delete(f"/datasets/{dataset_id}").status_code == 204
    assert {client.get(image[path]).status_code for path in ("url", "thumbnail_url")} == {404}
    assert client.get(f"/datasets/{dataset_id}/examples").status_code == 404


def test_a_stored_picture_that_is_damaged_is_said_to_be(client, examples, settings):
    image = examples()[0]["images"][0]
    (settings.layout.storage / "default" / "images" / image["sha256"]).write_bytes(b"no picture")
    for path in ("url", "thumbnail_url"):
        answer = client.get(image[path])
        assert answer.status_code == 503, path
        assert "damaged" in answer.json()["detail"]


def test_the_copy_of_a_table_holds_every_name_once_and_sorted(dataset_id, examples, settings):
    (folder,) = settings.layout.tables.glob(f"{dataset_id}-*") if examples() else ()
    data = (folder / "images.sha256").read_bytes()
    names = [data[start : start + 32].hex() for start in range(0, len(data), 32)]
    assert names == sorted({image["sha256"] for example in examples() for image in example["images"]})


def test_what_the_cache_has_given_up_is_made_again(client, examples, settings):
    before = examples()
    photo = before[4]["images"][1]
    shown = client.get(photo["thumbnail_url"]).content
    shutil.rmtree(next(settings.layout.tables.iterdir()))
    (settings.layout.thumbnails / f"{photo['sha256']}.webp").unlink()
    assert examples() == before
    assert client.get(photo["thumbnail_url"]).content == shown
