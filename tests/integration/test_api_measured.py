"""A data set that names a base model, from the upload over a real worker to its report; and the refusals before that."""

import io
import json

import pytest
from PIL import Image

from tests.integration.conftest import colours, zip_of
from tests.integration.test_api_bad_rows import upload
from tests.integration.test_api_edges import open_client
from tests.integration.test_api_preview import client as with_serving
from tests.integration.test_api_preview import client_at, count_tokens
from tests.integration.test_dataset_sources import client as with_sources

__all__ = ["client_at", "open_client", "upload", "with_serving", "with_sources"]


def send(client, *, status=202, key=None, **form):
    headers = {"Idempotency-Key": key} if key else {}
    answer = client.post("/datasets", files={"file": ("a.zip", io.BytesIO(colours(3)))}, data=form, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def errors_of(problem):
    return [(error["pointer"], error["detail"]) for error in problem["errors"]]


def lengths(*bad):
    """Return a zip of rows of many lengths, with pictures of two sizes; then the bad ones."""
    files, rows = {}, []
    for number in range(12):
        picture = io.BytesIO()
        Image.new("RGB", (30 + 40 * (number % 2), 60), (number, 99, 0)).save(picture, "PNG")
        files[f"{number}.png"] = picture.getvalue()
        rows.append({"image": f"{number}.png", "question": "why? " * number, "answer": "because " * (number + 1)})
    return zip_of(files | {"a.jsonl": b"\n".join(json.dumps(row).encode() for row in [*rows, *bad])})


class TestOverServing:
    """With a serving process beside the API."""

    @pytest.fixture
    def client(self, with_serving):
        return with_serving

    def test_the_report_says_of_all_rows_what_tokens_says(self, client, upload):
        image = {"longest_edge": 96, "split": True, "upscale": False}
        dataset = upload(lengths(), "a.zip", base_model="tiny", longest_edge="96", split="true", upscale="false")
        assert (dataset["state"], dataset["base_model"], dataset["image"]) == ("ready", "tiny", image)
        told = client.get(f"/datasets/{dataset['id']}/report").json()["statistics"]["tokens"]
        counted = count_tokens(client, dataset["id"], **image)
        assert counted["num_sampled"] == dataset["num_examples"] == 12
        for name in ("tokens", "image_tokens"):
            assert told[name] == counted[name] | {"min": told[name]["min"]}
        assert told["learned_ratio"] == counted["learned_ratio"]
        assert (told["base_model"], told["context_tokens"]) == ("tiny", counted["context_tokens"])
        assert (told["longest_edge"], told["split"], told["upscale"]) == (96, True, False)


def test_a_row_that_a_job_would_refuse_refuses_the_set_or_is_skipped(client, upload):
    bad = {"image": "0.png", "question": "x" * 1100, "answer": "y"}
    refused = upload(lengths(bad), "a.zip", base_model="tiny")
    skipped = upload(lengths(bad), "a.zip", base_model="tiny", on_bad_row="skip")
    unmeasured = upload(lengths(bad), "a.zip")
    assert (refused["state"], refused["failure"]["code"]) == ("failed", "bad_data")
    assert "takes at most 1,024" in refused["failure"]["detail"]
    (issue,) = client.get(f"/datasets/{refused['id']}/report").json()["issues"]
    assert (issue["rule"], issue["row"], issue["pointer"]) == ("example_too_long", 13, "#/question")
    assert (skipped["state"], skipped["num_skipped"], skipped["num_examples"]) == ("ready", 1, 12)
    assert (unmeasured["state"], unmeasured["base_model"], unmeasured["image"]) == ("ready", None, None)
    report = client.get(f"/datasets/{unmeasured['id']}/report").json()
    assert report["statistics"]["tokens"] is None


def test_a_folder_that_is_no_model_is_the_failure_of_the_base(client, upload, tmp_path):
    dataset = upload(lengths(), "a.zip", base_model=str(tmp_path))
    assert (dataset["state"], dataset["failure"]["code"]) == ("failed", "base_model")
    assert str(tmp_path) in dataset["failure"]["detail"]


def test_a_name_that_is_no_base_is_refused_at_once_in_the_words_of_a_job(client, ready_dataset):
    job = client.post("/jobs", json={"base_model": "no-such-base", "dataset": ready_dataset})
    assert job.status_code == 422
    assert errors_of(send(client, status=422, base_model="no-such-base")) == errors_of(job.json())
    assert len(client.get("/datasets").json()["items"]) == 1


@pytest.mark.parametrize(
    ("form", "pointer"),
    [
        ({"base_model": "tiny", "longest_edge": "8"}, "longest_edge"),
        ({"base_model": "tiny", "split": "maybe"}, "split"),
        ({"longest_edge": "96"}, "#/longest_edge"),
        ({"split": "false"}, "#/split"),
        ({"upscale": "false"}, "#/upscale"),
        ({"base_model": "a" * 501}, "base_model"),
    ],
)
def test_wrong_options_are_pointed_at(client, form, pointer):
    ((found, detail),) = errors_of(send(client, status=422, **form))
    assert found.endswith(pointer)
    if "base_model" not in form:
        assert "none is named" in detail


def test_one_key_for_two_bases_or_two_ways_to_cut_is_refused(client):
    send(client, key="k", base_model="tiny", split="false")
    send(client, key="k", base_model="tiny", split="false")
    for other in ({}, {"base_model": "smolvlm-256m", "split": "false"}, {"base_model": "tiny"}):
        send(client, key="k", status=422, **other)


class TestOfASource:
    """As JSON."""

    @pytest.fixture
    def client(self, with_sources):
        return with_sources

    def test_a_source_names_its_base_as_a_job_does(self, client):
        asked = {"source": "s3://open/a.zip", "base_model": "tiny", "image": {"split": False}}
        made = client.post("/datasets", json=asked)
        assert made.status_code == 202, made.text
        assert (made.json()["base_model"], made.json()["image"]) == (
            "tiny",
            {"longest_edge": None, "split": False, "upscale": None},
        )

    @pytest.mark.parametrize(
        ("asked", "pointer"),
        [
            ({"base_model": "no-such-base"}, "#/base_model"),
            ({"image": {"split": True}}, "#/image"),
            ({"base_model": "tiny", "image": {"longest_edge": 8}}, "#/image/longest_edge"),
            ({"base_model": "tiny", "image": {"upscale": "perhaps"}}, "#/image/upscale"),
            ({"base_model": "tiny", "image": {"crop": True}}, "#/image/crop"),
        ],
    )
    def test_what_is_wrong_with_it_is_pointed_at(self, client, asked, pointer):
        answer = client.post("/datasets", json={"source": "s3://open/a.zip"} | asked)
        assert answer.status_code == 422
        assert [found for found, _ in errors_of(answer.json())] == [pointer]
