"""Two processes on one run: the same numbers as one, through the launcher that a job goes through."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from core.errors import WorkFailed
from core.events import parse
from tests.conftest import wait_for
from tests.processes import children_of, is_alive
from training import pipeline
from training.batching import Budget
from training.distributed import Group, joined
from training.export import ADAPTER_FOLDER, WEIGHTS_FILE
from training.resources import Resources
from worker.child import ChildProcess

STEPS = {
    "precision": "fp32",
    "max_steps": 4,
    "checkpoint_every": 1,
    "batch_size": 5,
    "learning_rate": 2e-3,
}
ALONE_IN_A_PASS = {"micro_batch_size": 1}
PACKED = {"packing": True, "micro_batch_tokens": 150}  # several passes, and the features of images are kept
LORA, NF4 = {"type": "lora"}, {"type": "qlora"}
LAUNCH = "import sys; from training.launch import run_processes; sys.exit(run_processes(2, module={module!r}))"
RUNS = {
    "ddp, fp32": {"method": LORA, "parallelism": "ddp", "passes": PACKED},
    "ddp, nf4": {"method": NF4, "parallelism": "ddp", "passes": ALONE_IN_A_PASS},
    "ddp, fp32, gone on": {"method": LORA, "parallelism": "ddp", "passes": PACKED, "resume_from": "ddp, fp32"},
    "fsdp, fp32": {"method": LORA, "parallelism": "fsdp", "passes": ALONE_IN_A_PASS},
    "fsdp, nf4": {"method": NF4, "parallelism": "fsdp", "passes": PACKED},
}
# fp32 sums come out differently by a few units of the last place when they are added in another order
TOLERANCE = 1e-5


def write_rows(album):
    """Seven rows in steps of five and two: no number of processes divides them."""
    rows = [
        album.question("Which colour?", "red", images=1, row=1),
        album.question("Say hello.", "Hello to all of you!", row=2),
        album.question("Which colours?", "red, green, blue", images=3, row=3),
        album.question("And which one is this, of all that there are? " * 3, "r", images=1, row=4),
        album.question("2 + 2?", "4", row=5),
        album.question("Which two?", "red, green", images=2, row=6),
        album.question("3 + 3?", "six", row=7),
        *(album.question("Which colour?", "red", images=1, row=8 + n, split="validation") for n in range(3)),
    ]
    album.write(*rows)


def launched(module, spec, staging):
    """Start two processes of a module and return the events and the exit status."""
    staging.mkdir()
    (staging / "spec.json").write_text(json.dumps(spec))
    reading, writing = os.pipe()
    command = [sys.executable, "-c", LAUNCH.format(module=module), "--spec", str(staging / "spec.json")]
    command += ["--staging", str(staging), "--events-fd", str(writing)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, pass_fds=[writing], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    os.close(writing)
    with process, os.fdopen(reading, "rb") as lines:
        return [parse(line) for line in lines], process.wait()


def test_two_processes_make_the_adapter_that_one_makes(album, spec, run, tmp_path):
    write_rows(album)
    several = {"gpus": 0, "num_processes": 2}
    specs = {
        name: spec(
            **what_is_learned(asked, tmp_path / "features of two"),
            resources=several | {"parallelism": asked["parallelism"]},
            resume_from=asked.get("resume_from"),
        ).model_dump(mode="json")
        for name, asked in RUNS.items()
    }
    events, status = launched("tests.unit.training.several_runs", {"runs": specs}, tmp_path / "several")
    assert status == 0, "\n".join(event.detail for event in events if event.type == "failure")
    assert [event.type for event in events].count("hello") == 1, "only the first process speaks"
    for name, asked in RUNS.items():
        alone = run(f"alone {name}")
        pipeline.fine_tune(spec(**what_is_learned(asked, tmp_path / "features of one")), alone.child)
        begin = next(n for n, e in enumerate(events) if e.type == "log" and e.message == name)
        packed = next(
            e.message for e in events[begin:] if e.type == "log" and e.message.endswith("steps with packed rows")
        )
        if "resume_from" not in asked:  # which makes one step, of two rows
            assert (int(packed.split()[0]) > 0) == (asked["passes"] is PACKED), (name, packed)
        whole = alone.metrics if "resume_from" not in asked else alone.metrics[-2:]  # a step and the validation
        metrics = [e.data for e in events[begin:] if e.type == "metric"][: len(whole)]
        for found, expected in zip(metrics, whole, strict=True):
            for figure in expected.keys() & {"loss", "grad_norm", "eval_loss", "eval_token_accuracy"}:
                assert found[figure] == pytest.approx(expected[figure], rel=TOLERANCE), (name, figure, expected["step"])
        found = load_file(tmp_path / "several" / name / ADAPTER_FOLDER / WEIGHTS_FILE)
        expected = load_file(alone.child.staging / ADAPTER_FOLDER / WEIGHTS_FILE)
        assert found.keys() == expected.keys()
        for weight in expected:
            distance = (found[weight] - expected[weight]).norm() / expected[weight].norm()
            assert float(distance) < TOLERANCE, (name, weight)

    for folder in (tmp_path / "features of two").iterdir():
        assert len(list(folder.glob("*.safetensors"))) == 1, (
            "the first process fills the cache and the other one finds it"
        )
    assert len(list((tmp_path / "features of two").iterdir())) == 2, "of the base as it is, and of nf4"


def what_is_learned(asked, features_dir):
    cache = {"features_dir": features_dir, "features_bytes": 10**9} if asked["passes"] is PACKED else {}
    return {"method": asked["method"], "hyperparameters": STEPS | asked["passes"], "seed": 11} | cache


def has_metric(batch):
    return any(event.type == "metric" for event in batch)


@contextmanager
def child(module, spec, staging):
    """Start two processes as a worker does; yields the child, its batches and its processes when the first one works."""
    staging.mkdir()
    with ChildProcess(module, spec=spec, staging=staging) as process:
        batches = process.batches(every_s=0.2)
        said = []
        assert any(said.extend(batch) or has_metric(batch) for batch in batches), said[-5:]
        yield process, batches, children_of(process.pid)


def test_a_job_of_two_processes_stops_when_it_is_asked(album, spec, tmp_path):
    album.colours(8)
    endless = {"precision": "fp32", "max_steps": 100_000, "batch_size": 4}
    asked = spec(method=LORA, hyperparameters=endless, resources={"gpus": 0, "num_processes": 2})
    with child("training.run", asked.model_dump(mode="json"), tmp_path / "job") as (process, batches, _):
        process.ask_to_stop()
        said = [event.type for batch in batches for event in batch]
    assert "stopped" in said
    assert "failure" not in said, "that the other process stops as well is no failure"
    assert not (tmp_path / "job" / ADAPTER_FOLDER).exists()


def test_the_processes_die_with_their_launcher(tmp_path):
    """torchrun starts them in sessions of their own, so a signal to the launcher's group does not reach them."""
    with child("tests.unit.training.waiting_child", {}, tmp_path / "killed") as (process, _, ranks):
        assert len(ranks) == 2
        assert all(map(is_alive, ranks))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    wait_for(lambda: not any(map(is_alive, ranks)), what="the end of both processes")


def test_a_process_that_the_system_kills_reads_as_if_the_child_was(tmp_path):
    """The supervisor takes SIGKILL for a want of memory; that the others end because of it is no news and no stop."""
    with child("tests.unit.training.waiting_child", {}, tmp_path / "lost") as (process, batches, ranks):
        os.kill(ranks[1], signal.SIGKILL)
        said = {event.type for batch in batches for event in batch}
        assert not {"failure", "result", "stopped"} & said
        assert process.wait() == -signal.SIGKILL


def test_only_the_first_process_speaks_but_a_failure_of_another_is_heard(tmp_path):
    with ChildProcess("tests.unit.training.waiting_child", spec={"fails": 1}, staging=tmp_path) as process:
        said = [event for batch in process.batches(every_s=0.2) for event in batch if event.type != "log"]
        assert process.wait() == 1
    assert [event.detail for event in said if event.type == "failure"] == ["process 1"]
    assert [event.type for event in said].count("hello") == 1


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("budget", [Budget(num_examples=16), Budget(num_examples=16, num_tokens=500, pack_tokens=200)])
def test_every_example_counts_once_and_every_process_has_as_much_to_do(size, budget):
    lengths = [50, 60, 70, 80, 90, 100, 110]
    shares = [Group(rank=rank, size=size).plan(range(7), lengths, budget) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    counted = [row for share in shares for micro_batch, counts in share if counts for row in micro_batch]
    assert sorted(example for row in counted for example in row) == list(range(7))
    assert all(any(counts for _, counts in share) for share in shares), "nobody idles while there are enough examples"


def test_one_process_plans_as_if_there_were_no_others():
    budget = Budget(num_examples=2)
    assert Group().plan(range(3), [5, 5, 5], budget) == [(((0,), (1,)), True), (((2,),), True)]


def test_each_process_drops_other_units():
    torch.manual_seed(3)
    Group(rank=0, size=2).seed_dropout(3)
    first = torch.rand(4)
    Group(rank=1, size=2).seed_dropout(3)
    assert not torch.equal(torch.rand(4), first)


def test_gpus_that_are_not_there_are_a_failure_that_says_what_to_do():
    """Without it a process that sees no GPU would train on the CPU, and nobody would know."""
    with pytest.raises(WorkFailed, match="asks for 2 GPUs") as failed, joined(Resources(gpus=2)):
        pass
    assert "resources.gpus" in failed.value.remedy
