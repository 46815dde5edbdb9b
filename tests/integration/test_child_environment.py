"""What a child finds in its environment: no key of ours or of the operator's, the Hub's token where it is needed."""

import json
import os
from pathlib import Path

import pytest

from core.db import Database
from core.layout import Layout
from core.settings import Settings
from core.storage import Storage
from worker.child import ChildProcess
from worker.kinds import Rooms
from worker.sources import Sources
from worker.training import Training
from worker.validation import Validation

SAYS_ALL = """
import json, os
from core.child import run_child
raise SystemExit(run_child(lambda child: dict(os.environ)))
"""
SECRETS = [
    "LENSMITH_DATABASE_URL",
    "LENSMITH_API_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_PROFILE",
    "GITHUB_TOKEN",
    "PGPASSWORD",
    "POSTGRES_PASSWORD",
    "S3_SECRET",
    "WANDB_API_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
]
OF_THE_HUB = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"]
NEEDED = {"HF_ENDPOINT": "https://hub.test", "OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "1", "HF_HOME": "/home"}


@pytest.fixture
def environment_of(tmp_path, monkeypatch):
    (tmp_path / "teller.py").write_text(SAYS_ALL)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path.cwd())]))
    for name in SECRETS + OF_THE_HUB:
        monkeypatch.setenv(name, "hidden")
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)

    def run(**how):
        with ChildProcess("teller", spec={}, staging=tmp_path, **how) as process:
            said = [event for batch in process.batches(every_s=0.1) for event in batch]
        return next(event.data for event in said if event.type == "result")

    return run


def test_a_child_knows_no_secret_and_everything_that_its_libraries_read(environment_of):
    """The token of the Hub went to every child, also to the one that decodes what strangers send."""
    seen = environment_of()
    assert "hidden" not in json.dumps(seen)
    assert {name: seen[name] for name in NEEDED} == NEEDED
    assert seen["PATH"] == os.environ["PATH"]


def test_a_child_that_reads_the_hub_has_its_token_and_no_other(environment_of):
    seen = environment_of(with_hub_token=True)
    assert {name for name, value in seen.items() if value == "hidden"} == set(OF_THE_HUB)


def test_only_work_with_a_base_model_reads_the_hub(settings: Settings, tmp_path):
    database = Database(settings.resolved_database_url)
    rooms = Rooms(database, Storage.from_url(tmp_path.as_uri()), Layout(tmp_path))
    validation = Validation(rooms, Sources(settings), remote_images=True)
    assert not validation.may_read_hub({"base_model": None})
    assert validation.may_read_hub({"base_model": "org/name"})
    assert Training(rooms, feature_cache_bytes=0).may_read_hub({"base_model": "org/name"})
    database.close()


def test_a_child_is_no_process_of_a_launcher_that_started_the_worker(environment_of, monkeypatch):
    """A worker under torchrun or a cluster's operator has a RANK; its child would take itself for one of several."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"} & environment_of().keys()
