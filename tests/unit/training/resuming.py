"""Runs to interrupt: one data set, a run that nothing interrupts, and children that are killed at a step."""

import os
import subprocess
import sys

import pytest

from core.child import StopRequested
from core.events import Checkpoint, parse
from tests.unit.training.conftest import Album, Run, recorded_steps, stop_after
from training import pipeline
from training.checkpoint import CHECKPOINTS_FOLDER
from training.spec import TrainingSpec

# Four steps an epoch, the last of one example; the run ends within its third epoch. Dropout draws random numbers.
STEPS = {"precision": "fp32", "max_steps": 11, "batch_size": 4, "learning_rate": 5e-3}
# Features are kept, the vision tower is gone, and a step has several passes, of rows of one or more examples.
QUICK = STEPS | {"micro_batch_tokens": 128, "packing": True}
ASKED = {"seed": 3, "method": {"dropout": 0.3}, "hyperparameters": QUICK | {"checkpoint_every": 3}}
# Every step looks at its images, and each example goes through the model alone.
PLAIN = {"features_dir": None, "hyperparameters": STEPS | {"micro_batch_size": 1, "checkpoint_every": 3}}

# `python -m training.run`, killed by SIGKILL right after it told its `kind` of a step, or before it names that checkpoint.
KILLED = """
import os, signal, sys
from core.child import run_child
from core.events import Emitter
from training.run import work

kind, step = sys.argv.pop(1), int(sys.argv.pop(1))
emit = Emitter.emit

def die_after(self, event):
    emit(self, event)
    if event.type == kind and (event.data["step"] if kind == "metric" else event.step) == step:
        os.kill(os.getpid(), signal.SIGKILL)

def die_before(name, arguments):
    if name == "os.rename" and str(arguments[1]).endswith(f"step-{step:08}"):
        os.kill(os.getpid(), signal.SIGKILL)

if kind == "rename":
    sys.addaudithook(die_before)
else:
    Emitter.emit = die_after
sys.exit(run_child(work))
"""


def figures(metrics):
    """Return the metrics that do not depend on the clock, by step and by what they measure."""
    clock = {"examples_per_s", "eta_s"}
    return {
        (each["step"], "eval_loss" in each): {name: value for name, value in each.items() if name not in clock}
        for each in metrics
    }


def told(metrics):
    return [(each["step"], "eval_loss" in each) for each in metrics]


def write_rows(album):
    """Thirteen rows to train on, short ones and long ones, and three to validate."""
    colours, long = ("red", "blue"), "Which colour is it, of all the colours there are? " * 2
    album.write(
        *(
            album.example(
                ("user", f"@{album.image(colours[n // 2 % 2])}", long if n % 2 == 0 else "Which" + "?" * (n % 5)),
                ("assistant", colours[n // 2 % 2]),
                row=n + 1,
                split="train" if n < 13 else "validation",
            )
            for n in range(16)
        )
    )


class Scene:
    """One data set, and runs on it that tests share; a finished run is only read."""

    def __init__(self, folder, models_dir):
        (folder / "dataset").mkdir()
        write_rows(Album(folder / "dataset"))
        self._folder = folder
        self._models_dir = models_dir
        self._stopped = {}
        with recorded_steps() as self.steps:
            self.uninterrupted = self.run()

    def spec(self, **asked):
        where = {"base_model": "tiny", "models_dir": self._models_dir, "dataset_dir": self._folder / "dataset"}
        cache = {"features_dir": self._folder / "features", "features_bytes": 10**9}
        return TrainingSpec.model_validate(where | {"dataset_digest": "d1"} | cache | ASKED | asked)

    def new(self):
        return Run(self._folder / f"run-{len(list(self._folder.iterdir()))}")

    def run(self, **asked):
        """Return a whole run and its result."""
        whole = self.new()
        whole.result = pipeline.fine_tune(self.spec(**asked), whole.child)
        return whole

    def stopped(self, step, **asked):
        """Return a run that was told to stop when it told the metric of a step."""
        part = self.new()
        part.child.events.emit = stop_after(part, step=step)
        with pytest.raises(StopRequested):
            pipeline.fine_tune(self.spec(**asked), part.child)
        return part

    def stopped_once(self, step):
        """Return the same run each time."""
        if step not in self._stopped:
            self._stopped[step] = self.stopped(step)
        return self._stopped[step]

    def go_on(self, part, **asked):
        return self.run(resume_from=part.child.staging / CHECKPOINTS_FOLDER, **asked)


def saved(part):
    return [event.step for event in part.events if isinstance(event, Checkpoint)]


def run_process(spec, run_folder, *kill):
    """Run a real child to its end in the run's staging folder; return its exit status and what it told."""
    events, spec_file = run_folder / f"events-of-{kill[0]}", run_folder / "spec.json"
    spec_file.write_text(spec.model_dump_json())
    with events.open("wb") as stream:
        command = [
            sys.executable,
            "-c",
            KILLED,
            *kill,
            "--spec",
            str(spec_file),
            "--staging",
            str(run_folder / "staging"),
        ]
        process = subprocess.Popen(
            [*command, "--events-fd", str(stream.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[stream.fileno()],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        with process:
            status = process.wait()
    return status, [parse(line) for line in events.read_bytes().splitlines()]
