"""The callback alone, driven as transformers drives it: hooks get (arguments, state, control) and keywords."""

import math

import pytest
from transformers import TrainerControl, TrainerState

from core.errors import FailureCode, WorkFailed
from training import settings
from training.peaks import Phases
from training.progress import Progress
from training.spec import Hyperparameters


@pytest.fixture
def progress(run, clock):
    child_run = run()
    schedule = settings.resolve(
        Hyperparameters(epochs=2, batch_size=4), num_examples=10, precision="fp32", on_gpu=False, can_pack=True
    )
    progress = Progress(child_run.child, schedule, None, Phases(child_run.child), clock=clock)
    progress.on_train_begin()
    progress.run = child_run
    return progress


def step(progress, number, **logs):
    control = TrainerControl()
    progress.on_step_end(None, TrainerState(global_step=number), control)
    progress.on_log(None, None, control, logs={"loss": 1.5, "learning_rate": 1e-4, "grad_norm": 0.5} | logs)
    return control


def test_each_step_tells_where_it_is_how_fast_and_how_long_still(progress, clock):
    for number, seconds in ((1, 2), (2, 2), (3, 1)):  # the third step of an epoch of ten holds two rows
        clock.now += seconds
        step(progress, number)
    assert progress.run.metrics[-1] == {
        "step": 3,
        "total_steps": 6,
        "epoch": 1.0,
        "loss": 1.5,
        "learning_rate": 1e-4,
        "grad_norm": 0.5,
        "examples_per_s": pytest.approx(2.0),
        "eta_s": pytest.approx(5.0),
    }


def test_the_summary_at_the_end_of_training_is_not_a_step(progress):
    progress.on_log(None, None, TrainerControl(), logs={"train_loss": 1.0, "train_runtime": 3.0})
    assert progress.run.metrics == []


def test_a_gradient_norm_that_is_not_finite_is_told_as_null(progress, clock):
    clock.now += 1
    step(progress, 1, grad_norm=math.inf)
    assert progress.run.metrics[0]["grad_norm"] is None


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_told_and_ends_the_run(progress, clock, loss):
    clock.now += 1
    with pytest.raises(WorkFailed) as failure:
        step(progress, 1, loss=loss)
    assert failure.value.code is FailureCode.DIVERGED
    assert "learning_rate (now 0.0002)" in failure.value.remedy
    assert progress.run.metrics[0]["loss"] is None


def test_a_step_goes_on_until_somebody_asks_to_stop(progress, clock):
    clock.now += 1
    assert not step(progress, 1).should_training_stop
    progress.run.child.stop.set()
    assert step(progress, 2).should_training_stop


def test_a_run_that_goes_on_counts_from_its_step_and_measures_its_rate_anew(progress, clock):
    progress.resume(4, 0.5)
    progress.on_train_begin(model=None)
    assert (progress.step, progress.loss) == (4, 0.5)
    clock.now += 2
    step(progress, 5)
    (metric,) = progress.run.metrics
    assert (metric["step"], metric["examples_per_s"], metric["eta_s"]) == (5, 2.0, 1.0)
