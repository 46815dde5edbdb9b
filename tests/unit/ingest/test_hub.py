"""Data sets of the Hub, read by a real child from a Hub on loopback."""

import os
from pathlib import Path

import pytest
from datasets import ClassLabel, Image, List, Value

from core.errors import FailureCode
from core.events import Failure, Log, Resolved, Result, Stopped
from ingest.origins import HubOrigin
from tests.unit.ingest.hub import NAME, serving_hub
from tests.unit.ingest.hub_files import lines, parquet, pictures, split

CAPTIONS = {"image": Image(), "caption": Value("string")}


def test_a_repository_of_parquet_keeps_the_bytes_of_its_pictures(make, hub, fetch):
    rows = pictures(make, 10)
    commit = hub.commit(NAME, {"README.md": b"# Ours", "data/train-00000-of-00001.parquet": parquet(rows, **CAPTIONS)})
    last, found, events = fetch()
    assert isinstance(last, Result)
    assert found == rows
    assert [e.provenance for e in events if isinstance(e, Resolved)] == [{"source": f"hf://{NAME}@{commit}"}]
    assert any(isinstance(e, Log) and commit in e.message and "10 rows" in e.message for e in events)


def test_lists_of_pictures_and_conversations_come_as_they_are(make, hub, fetch):
    messages = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This."}]
    row = {"images": [{"bytes": make.image(1)}, {"bytes": make.image(2)}], "messages": messages}
    kinds = {"images": List(Image()), "messages": List({"role": Value("string"), "content": Value("string")})}
    hub.commit(NAME, {"train.parquet": parquet([row], **kinds)})
    assert fetch()[1] == [row]


def test_a_label_comes_as_its_name(hub, fetch):
    labels = ClassLabel(names=["cat", "dog"])
    hub.commit(NAME, {"train.parquet": parquet([{"label": 1}, {"label": 0}, {"label": None}], label=labels)})
    assert fetch()[1] == [{"label": "dog"}, {"label": "cat"}, {}]


def test_lines_of_json_may_mix_text_and_parts(hub, fetch):
    rows = [
        {"messages": [{"role": "user", "content": "x" if i % 2 else [{"type": "text", "text": "t"}]}]} for i in range(9)
    ]
    hub.commit(NAME, {"train.jsonl": lines(*rows)})
    assert fetch()[1] == rows


def test_a_folder_of_pictures_comes_with_the_bytes_of_its_files(make, hub, fetch):
    files = {f"train/{i}.png": make.image(i) for i in range(5)}
    told = [{"file_name": f"{i}.png", "caption": f"c{i}"} for i in range(5)]
    hub.commit(NAME, files | {"train/metadata.jsonl": lines(*told)})
    assert fetch()[1] == pictures(make, 5)


def test_a_folder_of_pictures_without_words_has_the_names_of_its_folders(make, hub, fetch):
    hub.commit(NAME, {"cats/1.png": make.image(1), "cats/2.png": make.image(2), "dogs/3.png": make.image(3)})
    assert [row["label"] for row in fetch()[1]] == ["cats", "cats", "dogs"]


def test_a_zip_of_pictures_is_looked_into(make, hub, fetch):
    told = lines(*({"file_name": f"{i}.png", "caption": f"c{i}"} for i in range(4)))
    hub.commit(NAME, {"train.zip": make.zip({f"{i}.png": make.image(i) for i in range(4)} | {"metadata.jsonl": told})})
    assert fetch()[1] == pictures(make, 4)


def test_a_validation_split_is_one_and_a_test_split_is_left_out(hub, fetch):
    hub.commit(NAME, split("train", "a", "b") | split("validation", "c") | split("test", "d"))
    _, rows, events = fetch()
    assert rows == [
        {"text": "a", "split": "train"},
        {"text": "b", "split": "train"},
        {"text": "c", "split": "validation"},
    ]
    assert any(isinstance(e, Log) and "left out: test" in e.message for e in events)


def test_without_a_validation_split_we_choose_one(hub, fetch):
    hub.commit(NAME, split("train", "a", "b") | split("test", "d"))
    assert fetch()[1] == [{"text": "a"}, {"text": "b"}]


def test_the_split_that_is_named_is_taken_whatever_it_is(hub, fetch):
    hub.commit(NAME, split("train", "a") | split("test", "d"))
    assert fetch(split="test")[1] == [{"text": "d"}]


README = """---
configs:
- config_name: english
  data_files: en.jsonl
- config_name: german
  data_files: [{split: part_a, path: de.jsonl}, {split: part_b, path: en.jsonl}]
---
"""
CONFIGURED = {
    "README.md": README.encode(),
    "en.jsonl": lines({"text": "yes"}),
    "de.jsonl": lines({"text": "ja"}),
}


def test_a_configuration_is_taken_when_it_is_named_and_asked_for_when_there_are_several(hub, fetch):
    hub.commit(NAME, CONFIGURED)
    assert fetch(config="english")[1] == [{"text": "yes"}]
    missing, *_ = fetch()
    assert "'english', 'german'" in missing.detail
    assert "?config=" in missing.remedy
    wrong, *_ = fetch(config="french")
    assert "?config=" in wrong.remedy


def test_splits_that_could_mean_anything_are_asked_for(hub, fetch):
    hub.commit(NAME, CONFIGURED)
    last, *_ = fetch(config="german")
    assert '"part_a", "part_b"' in last.detail
    assert "?split=part_a" in last.remedy
    assert fetch(config="german", split="part_a")[1] == [{"text": "ja"}]
    last, *_ = fetch(config="german", split="train")
    assert 'no split "train"; it has "part_a", "part_b"' in last.detail


def test_a_revision_is_read_and_an_earlier_commit_stays_what_it_was(hub, fetch):
    first = hub.commit(NAME, split("train", "first"))
    hub.commit(NAME, split("train", "second"))
    hub.commit(NAME, split("train", "draft"), branch="draft")
    assert fetch()[1] == [{"text": "second"}]
    assert fetch(revision="draft")[1] == [{"text": "draft"}]
    assert fetch(revision=first)[1] == [{"text": "first"}]


@pytest.mark.parametrize(
    ("flags", "token", "says", "remedy"),
    [
        ({"gated": True}, None, "is gated", "Ask for access"),
        ({"private": True}, None, "is not on the Hub, or it is private", "HF_TOKEN"),
        ({"gated": True}, "hf_right", None, None),
        ({"private": True}, "hf_right", None, None),
    ],
)
def test_what_is_closed_opens_with_the_token_of_the_worker(flags, token, says, remedy, hub, fetch):
    hub.commit(NAME, split("train", "a"), **flags)
    last, rows, _ = fetch(environment={"HF_TOKEN": token} if token else None, code=FailureCode.SOURCE)
    if says is None:
        assert rows == [{"text": "a"}]
    else:
        assert says in last.detail
        assert remedy in last.remedy
        assert not last.retryable


def test_a_token_that_lies_in_a_file_is_not_used(hub, fetch, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("hf_of_somebody")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    hub.commit(NAME, split("train", "a"))
    fetch()
    assert hub.tokens == {None}


def test_what_is_not_there_is_said(hub, fetch):
    last, *_ = fetch("org/nothing", code=FailureCode.SOURCE)
    assert last.detail == 'The data set "hf://org/nothing" is not on the Hub, or it is private.'
    hub.commit(NAME, split("train", "a"))
    last, *_ = fetch(revision="v9", code=FailureCode.SOURCE)
    assert last.detail == f'The data set "hf://{NAME}" has no revision "v9".'
    hub.commit(NAME, {"README.md": b"# Soon"})
    last, *_ = fetch()
    assert "holds no files of data" in last.detail
    hub.commit(NAME, {"train.parquet": parquet([], text=Value("string"))})
    last, *_ = fetch()
    assert "has no rows" in last.detail
    assert not last.retryable


def test_a_script_is_refused_and_never_run(hub, fetch, tmp_path):
    trap = tmp_path / "ran"
    hub.commit(NAME, split("train", "a") | {"name.py": f"open({str(trap)!r}, 'w')".encode()})
    last, *_ = fetch()
    assert "made by a script (name.py)" in last.detail
    assert "refs/convert/parquet" in last.remedy
    assert not trap.exists()


@pytest.mark.parametrize(
    "file",
    ["{folder}/hidden.jsonl", "file://{folder}/hidden.jsonl", "../../../../..{folder}/hidden.jsonl", "{other}/a.jsonl",
     "hf://datasets/org/private/train.jsonl", "hf://datasets/org/name@draft/train.jsonl"],
)  # fmt: skip
def test_data_that_lies_outside_of_the_repository_is_not_read(file, hub, fetch, tmp_path):
    (tmp_path / "hidden.jsonl").write_bytes(lines({"text": "secret"}))
    hub.commit("org/private", split("train", "secret"), private=True)
    hub.commit(NAME, split("train", "of another commit, which may change"), branch="draft")
    with serving_hub() as other:
        path = file.format(folder=tmp_path, other=other.url)
        readme = f"---\nconfigs:\n- config_name: default\n  data_files: [{path!r}]\n---\n"
        hub.commit(NAME, {"README.md": readme.encode(), "train.jsonl": b""})
        last, *_ = fetch(environment={"HF_TOKEN": "hf_right"})
        assert isinstance(last, Failure)
        assert "names data that lies outside of it" in last.detail or ".." in path
        assert "secret" not in last.detail + last.remedy
        assert other.asked == []


@pytest.mark.parametrize(
    "path",
    [
        "{folder}/secret.png",
        "file://{folder}/secret.png",
        "zip://secret.png::{folder}/secret.zip",
        "{other}/a.png",
        "hf://datasets/org/private@main/a.png",
    ],
)
def test_pictures_that_lie_outside_of_the_repository_stay_paths(path, hub, fetch, tmp_path, make):
    """`datasets` would open any path that a row names: a file of the worker's, or a service beside it."""
    (tmp_path / "secret.png").write_bytes(make.image(1))
    (tmp_path / "secret.zip").write_bytes(make.zip({"secret.png": make.image(1)}))
    hub.commit("org/private", {"a.png": make.image(2)}, private=True)
    with serving_hub() as other:
        path = path.format(folder=tmp_path, other=other.url)
        hub.commit(NAME, {"train.parquet": parquet([{"image": {"path": path, "bytes": None}}], image=Image())})
        _, rows, _ = fetch(environment={"HF_TOKEN": "hf_right"})
        assert rows == [{"image": {"path": path}}]
        assert other.asked == []
    assert not any("private" in asked for asked in hub.asked)


def test_a_worker_without_the_library_says_so(hub, fetch, tmp_path):
    (tmp_path / "datasets.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), str(Path.cwd())])
    last, *_ = fetch(environment={"PYTHONPATH": path}, code=FailureCode.INTERNAL)
    assert "the library `datasets` is not installed" in last.detail
    assert "lensmith[hub]" in last.remedy
    assert hub.asked == []


def test_a_format_that_may_hold_code_or_is_unknown_is_refused(hub, fetch):
    hub.commit(NAME, {"train.txt": b"words"})
    last, *_ = fetch()
    assert "in a format that is not read here (text)" in last.detail


def test_the_file_has_a_bound(hub, fetch, make):
    hub.commit(NAME, {"train.parquet": parquet(pictures(make, 40), **CAPTIONS)})
    last, *_ = fetch(max_bytes=200)
    assert "has more than 200 bytes" in last.detail
    assert "LENSMITH_MAX_UPLOAD_BYTES" in last.remedy


def test_a_file_that_the_readme_names_and_that_is_not_there_is_said(hub, fetch):
    """The Hub had answered 404 to `name.py`, which the library looks for first; that was given as the reason."""
    hub.commit(NAME, {"README.md": README.encode(), "de.jsonl": lines({"text": "ja"})})
    last, *_ = fetch(config="english")
    assert "Unable to find" in last.detail
    assert "en.jsonl" in last.detail


def test_a_damaged_file_is_said(hub, fetch):
    hub.commit(NAME, {"train.parquet": b"PAR1 and then nothing"})
    last, *_ = fetch()
    assert "cannot be read" in last.detail
    assert not last.retryable


def test_a_child_that_is_told_to_stop_stops(hub, fetch, make):
    hub.commit(NAME, {"train.parquet": parquet(pictures(make, 4), **CAPTIONS)})
    assert isinstance(fetch(stop=True)[0], Stopped)


@pytest.mark.parametrize(
    "origin",
    [
        {"repository": "a/b"},
        {"repository": "a/b", "revision": "refs/pr/1", "config": "en us", "split": "train"},
    ],
)
def test_an_origin_reads_back_from_how_it_is_written(origin):
    from ingest.origins import parse_origin

    made = HubOrigin(**origin)
    assert parse_origin(str(made), https=False, buckets=frozenset(), hub=True) == made
