"""`/datasets/{id}/preview` against a real serving process's application, and against what stands in its place."""

import hashlib
import io
import threading

import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

from api.app import create_app
from core.storage import Storage
from models import dataset as datasets
from models.states import Kind
from models.work import Work
from serving.app import create_app as create_serving
from serving.options import ServingSettings
from tests.conftest import wait_for
from tests.integration.test_api_infer import refusal, serving
from vlm.conversation import RECORDS_FILE, Example, ImagePart, Message, TextPart, write_examples

__all__ = ["serving"]
DIGEST = "d" * 64
ROWS = [2, 3, 5, 8, 2]  # of two files; what lies between was refused


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, "PNG")
    return out.getvalue()


def add_dataset(database, dataset_id: str, state: str, **values) -> None:
    with database.write() as session:
        session.add(Work(id=dataset_id, kind=Kind.VALIDATION, queue="cpu", state=state, **values))
        session.flush()
        known = {"name": "n", "filename": "n.zip", "container": "zip", "upload_sha256": "0" * 64, "upload_bytes": 1}
        session.add(datasets.Dataset(id=dataset_id, digest=DIGEST, num_examples=len(ROWS), **known))


@pytest.fixture
def dataset(settings, api_database, tmp_path) -> str:
    """A ready data set of a few rows, in groups of two."""
    add_dataset(api_database, "ds_1", "succeeded")
    storage, sha256 = Storage.from_url(settings.resolved_storage_url), hashlib.sha256(picture()).hexdigest()
    storage.put_bytes(f"default/images/{sha256}", picture())
    examples = (
        Example(
            row=row,
            file="a.jsonl" if place < 4 else "b.jsonl",
            split="validation" if row == 5 else "train",
            messages=(
                Message(role="user", content=(ImagePart(), TextPart(text=f"Question {place}?"))),
                Message(role="assistant", content=(TextPart(text=f"Answer {row}."),)),
            ),
            images=(sha256,),
        )
        for place, row in enumerate(ROWS)
    )
    write_examples(tmp_path, examples, batch_size=2)
    storage.put_file(f"default/datasets/ds_1/records-{DIGEST}.parquet", tmp_path / RECORDS_FILE)
    return "ds_1"


@pytest.fixture
def client_at(settings, api_database):
    """Open a client of the API over the serving of an address."""
    opened = []

    def client_at(url: str) -> TestClient:
        opened.append(TestClient(create_app(settings.model_copy(update={"serving_url": url})), "http://localhost"))
        return opened[-1].__enter__()

    yield client_at
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(settings, client_at):
    application = create_serving(ServingSettings(data_dir=settings.data_dir))
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started, what="serving")
        yield client_at(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def beside(client_at, serving):
    """A client whose serving is a stand-in that says what the test wants."""
    return client_at(f"http://127.0.0.1:{serving.server_port}")


def preview(client, dataset, *, status=200, **query):
    response = client.get(f"/datasets/{dataset}/preview", params={"base_model": "tiny", "row": 5} | query)
    assert response.status_code == status, response.text
    return response.json()


def pointers(problem) -> list[str]:
    return [error["pointer"] for error in problem["errors"]]


def test_a_row_is_shown_as_the_base_sees_it(client, dataset):
    seen = preview(client, dataset, longest_edge=64, split=True)
    assert (seen["dataset"], seen["base_model"], seen["row"], seen["split"]) == (dataset, "tiny", 5, "validation")
    assert seen["text"] == (
        "<|im_start|>User:<image>Question 2?<end_of_utterance>\nAssistant: Answer 5.<end_of_utterance>\n"
    )
    learned = "".join(token["text"] for token in seen["tokens"] if token["learned"])
    assert learned == " Answer 5.<end_of_utterance>"
    assert sum(token["count"] for token in seen["tokens"]) == seen["num_tokens"]
    (image,) = seen["images"]
    assert (image["rows"], image["columns"], image["num_tiles"], len(image["tiles"])) == (2, 2, 5, 5)
    cut = {"longest_edge": 64, "split": True, "upscale": True, "tile_px": 32, "image_tokens_per_tile": 4}
    assert seen["image"] == cut
    assert preview(client, dataset, longest_edge=64, split=True, upscale=False)["image"] == cut | {"upscale": False}
    assert preview(client, dataset)["images"][0]["num_tiles"] == 1


def test_image_options_beyond_the_base_are_pointed_at_as_the_query_has_them(client, dataset):
    problem = preview(client, dataset, status=422, longest_edge=193, split=True)
    assert pointers(problem) == ["#/longest_edge"]
    assert problem["detail"].startswith("This base model knows 6 x 6 tiles")


def test_a_base_that_is_no_model_is_not_found(client, dataset, tmp_path):
    assert preview(client, dataset, status=404, base_model=str(tmp_path))["code"] == "base_model"


def count_tokens(client, dataset, *, status=200, **query):
    response = client.get(f"/datasets/{dataset}/tokens", params={"base_model": "tiny"} | query)
    assert response.status_code == status, response.text
    return response.json()


def test_the_lengths_of_all_examples_are_told(client, dataset):
    counted = count_tokens(client, dataset, longest_edge=64, split=True)
    assert (counted["dataset"], counted["base_model"]) == (dataset, "tiny")
    assert (counted["num_examples"], counted["num_sampled"]) == (5, 5)
    assert counted["image_tokens"]["p50"] == preview(client, dataset, longest_edge=64, split=True)["num_image_tokens"]
    assert counted["tokens"]["max"] == preview(client, dataset, longest_edge=64, split=True)["num_tokens"]
    assert count_tokens(client, dataset, at_most=2)["num_sampled"] == 2
    assert pointers(count_tokens(client, dataset, status=422, longest_edge=193, split=True)) == ["#/longest_edge"]


@pytest.mark.parametrize(
    ("query", "pointer"), [({"at_most": 0}, "#/at_most"), ({"at_most": 10**9}, "#/at_most"), ({"row": 1}, "#/row")]
)
def test_a_wrong_question_about_lengths_is_pointed_at(beside, serving, dataset, query, pointer):
    assert pointers(count_tokens(beside, dataset, status=422, **query)) == [pointer]
    assert serving.asked == []


def test_a_row_of_several_files_can_be_told_apart(beside, serving, dataset):
    serving.reply = refusal("#/row")
    for file, question in (("a.jsonl", "Question 0?"), ("b.jsonl", "Question 4?")):
        preview(beside, dataset, status=422, row=2, file=file)
        assert serving.asked[-1]["row"]["messages"][0]["content"][1]["text"] == question
    num_asked = len(serving.asked)
    problem = preview(beside, dataset, status=422, row=2)
    assert pointers(problem) == ["#/file"]
    assert "Row 2 is in 2 files: a.jsonl, b.jsonl." in problem["detail"]
    problem = preview(beside, dataset, status=404, row=2, file="c.jsonl")
    assert problem["detail"] == "Row 2 is not in c.jsonl; it is in a.jsonl, b.jsonl."
    assert len(serving.asked) == num_asked


@pytest.mark.parametrize("row", [1, 4, 9])
def test_a_row_that_is_not_there_is_told_with_the_range(beside, serving, dataset, row):
    problem = preview(beside, dataset, status=404, row=row)
    assert f"has no row {row}: its 5 examples are of the rows 2 to 8" in problem["detail"]
    assert serving.asked == []


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"row": 0}, "#/row"),
        ({"row": "x"}, "#/row"),
        ({"row": 2**63}, "#/row"),
        ({"longest_edge": 8}, "#/longest_edge"),
        ({"longest_edge": 5000}, "#/longest_edge"),
        ({"split": "maybe"}, "#/split"),
        ({"base_model": "a\0"}, "#/base_model"),
        ({"colour": "red"}, "#/colour"),
    ],
)
def test_a_query_that_is_wrong_is_pointed_at(beside, serving, dataset, query, pointer):
    assert pointers(preview(beside, dataset, status=422, **query)) == [pointer]
    assert serving.asked == []


def test_an_unknown_base_is_not_found_and_named(beside, serving, dataset):
    assert "no-such-base" in preview(beside, dataset, status=404, base_model="no-such-base")["detail"]
    assert serving.asked == []


@pytest.mark.parametrize("dataset_id", ["ds_none", "A"])
def test_a_data_set_that_is_not_there_is_not_found(beside, dataset_id):
    assert dataset_id in preview(beside, dataset_id, status=404)["detail"]


def test_a_data_set_that_is_not_ready_is_a_conflict(beside, api_database):
    add_dataset(api_database, "ds_2", "running")
    problem = preview(beside, "ds_2", status=409)
    assert (problem["state"], problem["detail"]) == (
        "validating",
        "The data set ds_2 is validating. Wait until GET /datasets/ds_2 says ready.",
    )


def test_a_serving_that_is_away_is_unavailable(client_at, dataset):
    assert "GET /readyz" in preview(client_at("http://127.0.0.1:1"), dataset, status=503)["detail"]


@pytest.mark.parametrize("reply", [(200, b"<html>"), (200, b"{}"), (500, b""), (502, b"bad gateway")])
def test_nonsense_in_the_place_of_serving_is_unavailable(beside, serving, dataset, reply):
    serving.reply = reply
    preview(beside, dataset, status=503)
