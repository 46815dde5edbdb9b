"""The main job over HTTP: upload, train, publish, ask; real Valkey, Celery, child process, on both databases."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lensmith import ApiError
from tests.conftest import wait_for
from tests.integration.conftest import colours, zip_of

pytestmark = pytest.mark.e2e

NUM_PICTURES = 24
HYPERPARAMETERS = {"epochs": 2, "batch_size": 8}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "colours.zip"
    path.write_bytes(colours(NUM_PICTURES))
    return path


@pytest.fixture(scope="module")
def trained(service, archive):
    """A data set, a job that succeeded, and its log as it was streamed while it ran."""
    from lensmith import Client

    with Client(service.url) as client:
        dataset = client.datasets.wait(client.datasets.upload(archive, base_model="tiny").id)
        job = client.jobs.create(base_model="tiny", dataset=dataset.id, hyperparameters=HYPERPARAMETERS, seed=7)
        items = list(client.jobs.follow(job.id))
        return dataset, client.jobs.get(job.id), items


def test_a_data_set_is_validated_and_split(trained):
    dataset, _, _ = trained
    assert (dataset.state, dataset.num_examples) == ("ready", NUM_PICTURES)
    assert sum(dataset.splits.values()) == NUM_PICTURES
    assert dataset.splits["validation"] > 0


def test_the_report_has_measured_what_the_job_then_measures(client, trained):
    dataset, job, _ = trained
    told, measured = client.datasets.report(dataset.id)["statistics"]["tokens"], job.model_extra["settings"]["data"]
    assert (dataset.base_model, told["base_model"]) == ("tiny", "tiny")
    assert told["revision"] == job.model_extra["provenance"]["base_model"]["revision"]
    assert told["tokens"]["max"] == measured["longest_tokens"]  # of the training split, where the longest word is
    assert told["image_tokens"]["max"] == measured["image_tokens_per_image"]


def test_the_job_succeeds_and_publishes_its_adapter(trained):
    _, job, _ = trained
    assert job.failure is None
    assert (job.state, job.attempt, job.phase) == ("succeeded", 1, None)
    assert job.adapter.startswith("adp_")
    assert job.progress["step"] == job.progress["total_steps"] > 0
    assert job.peak_memory_bytes > 0


def test_the_stream_told_every_step_once_and_in_order(trained):
    _, job, items = trained
    assert [item.seq for item in items] == list(range(1, len(items) + 1))
    steps = [item.data["step"] for item in items if item.kind == "metric" and "loss" in item.data]
    assert steps == list(range(1, job.progress["total_steps"] + 1))
    metric = next(item.data for item in items if item.kind == "metric")
    for name in ("step", "total_steps", "epoch", "loss", "learning_rate", "grad_norm", "examples_per_s", "eta_s"):
        assert name in metric
    assert next(item.data["phase"] for item in items if item.data and "phase" in item.data) == "loading"


def test_the_validation_split_is_measured_each_epoch(trained):
    _, _, items = trained
    evaluated = [item.data for item in items if item.kind == "metric" and "eval_loss" in item.data]
    assert {round(data["epoch"]) for data in evaluated} == {1, 2}
    assert all(0 <= data["eval_token_accuracy"] <= 1 for data in evaluated)


def test_the_job_says_where_everything_came_from(trained):
    dataset, job, _ = trained
    provenance = job.model_extra["provenance"]
    text = json.dumps(provenance)
    assert dataset.digest in text
    assert job.model_extra["settings"]["hyperparameters"]["learning_rate"] > 0
    came_to = job.model_extra["hyperparameters"] | {"max_steps": job.progress["total_steps"]}  # epochs were asked for
    assert "auto" not in came_to.values(), "what `auto` came to comes back"
    assert (job.model_extra["hyperparameters"]["epochs"], job.model_extra["hyperparameters"]["batch_size"]) == (2, 8)
    for name in ("transformers", "peft", "trl", "torch"):
        assert name in text


def test_the_adapter_answers_about_a_picture_and_so_does_its_base(client, trained):
    _, job, _ = trained
    picture = _picture()
    tuned = client.infer("Which colour?", images=[picture], adapter=job.adapter, max_tokens=4)
    base = client.infer("Which colour?", images=[picture], model="tiny", max_tokens=4)
    assert tuned.adapter == job.adapter
    assert base.adapter is None
    assert tuned.usage["image_tokens"] == base.usage["image_tokens"] > 0
    assert tuned.finish_reason in ("stop", "length")


def test_several_pictures_can_be_asked_about_at_once(client):
    answer = client.infer("Which?", images=[_picture(), _picture(), _picture()], model="tiny", max_tokens=2)
    one = client.infer("Which?", images=[_picture()], model="tiny", max_tokens=2)
    assert answer.usage["image_tokens"] == 3 * one.usage["image_tokens"]


def test_the_download_is_a_folder_that_plain_peft_loads(client, trained, service, tmp_path):
    _, job, _ = trained
    archive = client.adapters.download(job.adapter, tmp_path / "adapter.zip")
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "adapter")
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "manifest.json"} <= names
    code = """
import json, sys, pathlib, torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, base = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), folder)
AutoProcessor.from_pretrained(folder)
saved = load_file(folder + "/adapter_model.safetensors")
loaded = {n.replace(".default", ""): p for n, p in model.named_parameters() if "lora_" in n}
assert saved and saved.keys() == loaded.keys(), (len(saved), len(loaded))
assert all(torch.equal(saved[n].float(), loaded[n].float()) for n in saved)
assert any(v.abs().max() > 0 for n, v in saved.items() if "lora_B" in n)
print("loaded", len(saved))
"""
    (base,) = (service.data_dir / "cache" / "models").glob("tiny*/")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "adapter"), str(base)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("loaded")


def test_bad_data_fails_with_every_issue_in_its_report(client, tmp_path):
    lines = [
        b'{"image": "a.png", "question": "?", "answer": "x"}',
        b"{not json",
        b'{"image": "b.png", "question": "?", "answer": ""}',
    ]
    bad = tmp_path / "bad.zip"
    bad.write_bytes(zip_of({"data.jsonl": b"\n".join(lines), "a.png": b"not a picture"}))
    dataset = client.datasets.wait(client.datasets.upload(bad).id)
    assert (dataset.state, dataset.failure.code) == ("failed", "bad_data")
    report = client.datasets.report(dataset.id)
    assert {issue["row"] for issue in report["issues"] if issue["severity"] == "error"} >= {1, 2, 3}
    with pytest.raises(ApiError) as refused:
        client.jobs.create(base_model="tiny", dataset=dataset.id)
    assert refused.value.status == 409


def test_a_running_job_is_cancelled_and_its_child_is_gone(client, trained, service):
    dataset, _, _ = trained
    before = set(service.descendants())
    job = client.jobs.create(
        base_model="tiny", dataset=dataset.id, hyperparameters={"max_steps": 100_000, "batch_size": 2}
    )
    wait_for(lambda: (client.jobs.get(job.id).progress or {}).get("step"), what="the first step")
    assert set(service.descendants()) - before, "the child runs"
    client.jobs.cancel(job.id)
    wait_for(lambda: client.jobs.get(job.id).state == "cancelled", what="the cancel")
    assert set(service.descendants()) - before == set()


def test_a_base_model_that_cannot_be_had_fails_with_a_remedy(client, trained):
    dataset, _, _ = trained
    job = client.jobs.wait(client.jobs.create(base_model="nobody/nothing", dataset=dataset.id).id)
    assert (job.state, job.failure.code) == ("failed", "base_model")
    assert job.failure.remedy


def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(client):
    with pytest.raises(ApiError, match=r"context|tokens") as refused:
        client.infer("word " * 5000, images=[_picture()], model="tiny")
    assert refused.value.status == 422


def test_a_picture_that_is_none_is_refused(client):
    with pytest.raises(ApiError) as refused:
        client.infer("?", images=[b"not a picture"], model="tiny")
    assert refused.value.status == 422
    assert refused.value.errors[0]["pointer"].startswith("#/images/0")


def _picture() -> bytes:
    with zipfile.ZipFile(__import__("io").BytesIO(colours(1))) as archive:
        return archive.read("images/0.png")
