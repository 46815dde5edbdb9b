"""A Hub that is away, ill, or dies in the middle."""

import os
from pathlib import Path

import pytest

from core.errors import FailureCode
from core.events import Result
from tests.unit.ingest.hub import NAME
from tests.unit.ingest.hub_files import lines, split


def test_no_network_may_be_tried_again_and_offline_mode_is_named(hub, fetch):
    hub.commit(NAME, split("train", "a"))
    last, *_ = fetch(environment={"HF_ENDPOINT": "http://127.0.0.1:1"}, code=FailureCode.SOURCE)
    assert (last.retryable, "could not be fetched: the Hub does not answer" in last.detail) == (True, True)
    last, *_ = fetch(environment={"HF_HUB_OFFLINE": "1"}, code=FailureCode.SOURCE)
    assert (last.retryable, "HF_HUB_OFFLINE is set" in last.detail) == (False, True)
    assert hub.asked == []


def test_a_hub_that_is_ill_may_be_tried_again(hub, fetch):
    hub.lives_for, hub.status = 0, 502
    last, *_ = fetch(code=FailureCode.SOURCE)
    assert (last.retryable, "the Hub answers 502" in last.detail) == (True, True)


@pytest.fixture
def sleepless(tmp_path):
    """Return an environment in which a child waits for nothing between its tries."""
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep = lambda seconds: None\n")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())])}


def test_a_hub_that_falls_ill_after_the_commit_was_found_may_be_tried_again(hub, fetch, sleepless):
    """`datasets` says then that it found no file of data, and that was given as the reason."""
    hub.commit(NAME, split("train", "a"))
    hub.lives_for, hub.status = 2, 503
    last, *_ = fetch(environment=sleepless, code=FailureCode.SOURCE)
    assert (last.retryable, "could not be fetched: the Hub does not answer" in last.detail) == (True, True)


@pytest.mark.parametrize("packed", [True, False], ids=["zip", "files"])
def test_a_hub_that_dies_in_the_middle_is_asked_by_one_library_only(packed, hub, fetch, make, sleepless):
    """`huggingface_hub` asks six times within half a minute; `datasets` had that done twenty times over.

    A worker's stop is not heard meanwhile. A zip is read while it is opened, a file after.
    """
    files = {"0.png": make.image(0), "metadata.jsonl": lines({"file_name": "0.png", "caption": "c"})}
    hub.commit(NAME, {"train.zip": make.zip(files)} if packed else files)
    assert isinstance(fetch(environment=sleepless)[0], Result)
    hub.lives_for = 2 * len(hub.asked) - 1  # all but the last question of the same fetch
    last, *_ = fetch(environment=sleepless, code=FailureCode.SOURCE)
    assert (last.retryable, "could not be fetched: the Hub does not answer" in last.detail) == (True, True)
    assert len(hub.asked) - hub.lives_for == 6
