"""The real child process: spec in, events out, and the ways that it ends."""

import dataclasses
import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from core.events import PROTOCOL_VERSION, parse
from training import pipeline
from training.export import ADAPTER_FOLDER
from training.run import work

QUICK = {"max_steps": 3, "batch_size": 4, "learning_rate": 0.01}


@contextmanager
def child(spec, folder):
    """Start `python -m training.run`; yields the process and the lines of its events."""
    (folder / "spec.json").write_text(spec.model_dump_json())
    (folder / "staging").mkdir()
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "training.run", "--spec", str(folder / "spec.json")]
    command += ["--staging", str(folder / "staging"), "--events-fd", str(writing)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, pass_fds=[writing], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    os.close(writing)
    with process, os.fdopen(reading, "rb") as lines:
        yield process, map(parse, lines)
        process.kill()


def test_a_run_speaks_the_protocol_from_hello_to_result(spec, album, tmp_path):
    album.colours(8, 2)
    with child(spec(hyperparameters=QUICK), tmp_path) as (process, lines):
        events = list(lines)
        assert process.wait() == 0
    assert (events[0].type, events[0].protocol, events[0].pid) == ("hello", PROTOCOL_VERSION, process.pid)
    assert events[-1].type == "result"
    assert events[-1].data["metrics"]["trained_steps"] == 3
    assert [e.data["step"] for e in events if e.type == "metric" and "loss" in e.data] == [1, 2, 3]
    assert (tmp_path / "staging" / ADAPTER_FOLDER / "adapter_model.safetensors").exists()


def test_a_stop_in_the_middle_of_training_ends_in_stopped(spec, album, tmp_path):
    album.colours(8)
    with child(spec(hyperparameters=QUICK | {"max_steps": 100_000}), tmp_path) as (process, lines):
        for event in lines:
            if event.type == "metric":
                break
        process.stdin.write(json.dumps({"type": "stop"}).encode() + b"\n")
        process.stdin.flush()
        events = list(lines)
        assert process.wait() == 0
    assert events[-1].type == "stopped"
    assert not (tmp_path / "staging" / ADAPTER_FOLDER).exists()


@pytest.mark.parametrize(
    ("asked", "code"), [({"base_model": "no-such-base"}, "base_model"), ({}, "bad_data")], ids=["base", "data"]
)
def test_work_that_cannot_be_done_ends_in_a_failure_with_a_remedy(spec, album, tmp_path, asked, code):
    album.write(album.question("x" * 2000, "long"))
    with child(spec(**asked), tmp_path) as (process, lines):
        events = list(lines)
        assert process.wait() == 1
    assert (events[-1].type, events[-1].code) == ("failure", code)
    assert events[-1].remedy


@pytest.mark.parametrize(
    ("visible", "seen"), [(None, "0"), ("1,2", "1"), ("", ""), ("GPU-a", "GPU-a"), ("MIG-x,MIG-y", "MIG-x")]
)
def test_a_run_sees_one_gpu_because_the_trainer_refuses_to_spread_over_two(spec, run, monkeypatch, visible, seen):
    """TRL 1.16 raises as soon as transformers sees two GPUs, so on such a machine no job would have started."""
    assert seen_by(spec(), run, monkeypatch, visible=visible) == seen


@pytest.mark.parametrize(
    ("resources", "rank", "seen"),
    [
        ({"gpus": 0}, 0, ""),
        ({"gpus": 2}, 0, "4"),
        ({"gpus": 2}, 1, "5"),
        ({"gpus": 4}, 3, ""),
        ({"gpus": 2, "parallelism": "model"}, 0, "4,5"),
    ],
)
def test_each_process_of_a_run_sees_its_own_gpus(spec, run, monkeypatch, resources, rank, seen):
    monkeypatch.setenv("RANK", str(rank))
    assert seen_by(spec(resources=resources), run, monkeypatch, visible="4,5,6") == seen


def seen_by(spec, run, monkeypatch, *, visible):
    monkeypatch.setattr(pipeline, "fine_tune", lambda *_: {"seen": os.environ["CUDA_VISIBLE_DEVICES"]})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that what the run sets is taken back
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    return work(dataclasses.replace(run().child, spec=spec.model_dump(mode="json")))["seen"]
