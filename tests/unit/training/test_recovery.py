"""A run that memory does not hold comes through in smaller passes, and learns what it would have learned with these."""

import itertools

import pytest
import torch
from safetensors.torch import load_file

from core.errors import FailureCode, WorkFailed
from core.events import Limited
from tests.passes import within
from training import evaluate, pipeline, trainer
from training.batching import Budget
from training.export import ADAPTER_FOLDER, WEIGHTS_FILE
from training.pass_limit import PassLimit
from training.recovery import Attempted

ASKED = {
    "precision": "fp32",
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 2e-3,
    "packing": False,
    "feature_cache": False,
}
WAYS_TO_SAY_IT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError("std::bad_alloc"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: 12345 bytes."
    ),
]


@pytest.fixture
def outcome(album, spec, run):
    """Return the curve, the weights and the events of a run."""
    album.colours(8, 3)
    names = itertools.count()

    def outcome(micro_batch, **asked):
        child_run = run(f"run {next(names)}")
        hyperparameters = ASKED | {"micro_batch_size": micro_batch} | asked.pop("hyperparameters", {})
        asked = {"method": {"type": "lora", "r": 4}, "seed": 3} | asked
        pipeline.fine_tune(spec(hyperparameters=hyperparameters, **asked), child_run.child)
        curve = [
            {name: value for name, value in each.items() if name not in ("examples_per_s", "eta_s")}
            for each in child_run.metrics
        ]
        weights = load_file(child_run.child.staging / ADAPTER_FOLDER / WEIGHTS_FILE)
        return curve, weights, child_run.events

    return outcome


@pytest.fixture
def fails(monkeypatch):
    """Let calls of a function fail: before it does anything, or when it has done its part."""

    def fails(where, name, at, *, error=WAYS_TO_SAY_IT[0], afterwards=False):
        real, calls = getattr(where, name), []

        def failing(*args, **kwargs):
            calls.append(args)
            if len(calls) in at and not afterwards:
                raise error
            made = real(*args, **kwargs)
            if len(calls) in at:
                raise error
            return made

        monkeypatch.setattr(where, name, failing)
        return calls

    return fails


def assert_same(found, expected):
    for mine, other in zip(found[0], expected[0], strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-7)
    assert found[1].keys() == expected[1].keys()
    for name, weight in expected[1].items():
        torch.testing.assert_close(found[1][name], weight, rtol=1e-4, atol=1e-7)


def limits(events):
    return [event.limit for event in events if isinstance(event, Limited)]


@pytest.mark.parametrize("error", WAYS_TO_SAY_IT, ids=["torch", "python", "allocator"])
def test_a_step_without_memory_in_its_forward_pass_is_done_again(outcome, fails, error):
    expected = outcome(2)
    fails(trainer, "score", {2}, error=error)
    found = outcome(4)
    assert_same(found, expected)
    assert limits(found[2]) == [{"num_examples": 2, "num_tokens": None, "gradient_checkpointing": False}]
    (said,) = [event.message for event in found[2] if event.type == "log" and event.level == "warning"]
    assert "Out of memory while computing the gradient of step 2 with 4 examples" in said


def test_a_step_without_memory_in_its_backward_pass_keeps_nothing_of_it(outcome, fails, monkeypatch):
    """Half of a gradient that was added up must not be added once more."""
    expected = outcome(1)
    monkeypatch.setattr(trainer.Trainer, "compute_loss", _poisoned(trainer.Trainer.compute_loss, {2, 6}))
    found = outcome(2)
    assert_same(found, expected)
    assert [each["num_examples"] for each in limits(found[2])] == [1, 1]
    assert limits(found[2])[-1]["gradient_checkpointing"], "one example was too much as well"


def _poisoned(real, at):
    """Return `compute_loss` whose gradient runs out of memory once it is half done."""
    calls = []

    def compute_loss(self, model, inputs, **options):
        calls.append(1)
        if len(calls) in at:
            weight = next(weight for name, weight in model.named_parameters() if "lora_A" in name)

            def fail(_):
                handle.remove()
                raise WAYS_TO_SAY_IT[0]

            handle = weight.register_hook(fail)
        return real(self, model, inputs, **options)

    return compute_loss


def test_an_update_without_memory_is_done_again(outcome, fails):
    expected = outcome(2)
    fails(torch.optim.AdamW, "step", {2})
    assert_same(outcome(4), expected)


def test_a_first_update_whose_state_is_half_made_is_done_again(outcome, monkeypatch):
    """torch makes the state of a tensor piece by piece, and only where there is none."""
    expected = outcome(2)
    real, calls = torch.zeros_like, []

    def fail_once(tensor, **options):
        if tensor.requires_grad:
            calls.append(tensor)
            if len(calls) == 4:
                raise WAYS_TO_SAY_IT[0]
        return real(tensor, **options)

    monkeypatch.setattr(torch, "zeros_like", fail_once)
    found = outcome(4)
    assert len(calls) > 4
    assert_same(found, expected)


def test_an_update_without_memory_makes_the_largest_pass_of_its_step_smaller(outcome, fails):
    """The last pass of a step is what is left over: of three and one, three are too many."""
    fails(torch.optim.AdamW, "step", {1})
    found = outcome("auto", hyperparameters={"micro_batch_tokens": 130})
    assert limits(found[2])[0]["num_examples"] > 1 or limits(found[2])[0]["num_tokens"] < 130


def test_an_update_that_was_half_written_fails_the_run(outcome, fails):
    """Nobody can tell which weights have taken the step; the next attempt goes on from the checkpoint."""
    fails(torch.optim.AdamW, "step", {2}, afterwards=True)
    with pytest.raises(WorkFailed) as failed:
        outcome(4)
    assert failed.value.code is FailureCode.OUT_OF_MEMORY
    assert failed.value.retryable


def test_a_validation_without_memory_goes_on_in_parts(outcome, fails):
    expected = outcome(4)
    calls = fails(evaluate, "score", {1, 2})
    found = outcome(4)
    assert len(calls) > 3
    assert [each["num_examples"] for each in limits(found[2])] == [2, 1]
    for mine, other in zip(found[0], expected[0], strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-7)


def test_a_validation_never_lets_passes_grow_again():
    passes = within(Budget(num_examples=2, num_tokens=200))
    passes.shrink(Attempted(num_examples=8, num_tokens=800), doing="trying")
    assert passes.budget == Budget(num_examples=2, num_tokens=200)


def test_where_nothing_is_kept_computing_again_does_not_help():
    passes = within(Budget(num_examples=1))
    passes.can_checkpoint(lambda: pytest.fail("it keeps no activations"))
    with pytest.raises(WorkFailed, match="one example"):
        passes.shrink(Attempted(num_examples=1, num_tokens=9), doing="validating", keeps_activations=False)


def test_dropout_draws_the_same_numbers_again(outcome, fails):
    """With one example in each pass the draws of a step do not depend on how it was cut, so the runs can be compared."""
    asked = {"method": {"type": "lora", "r": 4, "dropout": 0.3}}
    expected = outcome(1, hyperparameters={"gradient_checkpointing": True}, **asked)
    fails(trainer, "score", {3})
    assert_same(outcome(1, **asked), expected)


def test_one_example_that_does_not_fit_fails_the_run_and_says_what_would(outcome, fails):
    fails(trainer, "score", {1, 2, 3})
    with pytest.raises(WorkFailed, match="Memory does not hold one example of") as failed:
        outcome(2)
    assert failed.value.code is FailureCode.OUT_OF_MEMORY
    assert "image.longest_edge" in failed.value.remedy


def test_an_error_of_another_kind_goes_on_its_way(outcome, fails):
    fails(trainer, "score", {1}, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        outcome(2)


def test_a_run_begins_with_what_one_like_it_has_learned(outcome, fails):
    expected = outcome(1)
    calls = fails(trainer, "score", set())
    found = outcome(4, pass_limit=PassLimit(num_examples=1))
    assert_same(found, expected)
    assert len(calls) == 16, "one pass for each example of two epochs"


def test_tokens_are_halved_as_well_as_examples():
    passes = within(Budget(num_examples=16, num_tokens=2048, pack_tokens=1024))
    passes.shrink(Attempted(num_examples=5, num_tokens=1900), doing="trying")
    assert passes.budget == Budget(num_examples=3, num_tokens=950, pack_tokens=1024)


@pytest.mark.parametrize(
    ("budget", "checkpoints", "limit"),
    [
        (Budget(num_examples=16, num_tokens=2048), False, PassLimit(num_examples=4, num_tokens=1024)),
        (
            Budget(num_examples=3, num_tokens=2048),
            True,
            PassLimit(num_examples=2, num_tokens=1024, gradient_checkpointing=True),
        ),
        (
            Budget(num_examples=16, num_tokens=300),
            False,
            PassLimit(num_examples=16, num_tokens=250),
        ),
        (Budget(num_examples=1), False, PassLimit(num_examples=1, gradient_checkpointing=True)),
        (Budget(num_examples=1), True, None),
    ],
)
def test_what_a_killed_run_had_is_made_smaller(budget, checkpoints, limit):
    """Of examples of 250 tokens eight fit 2,048, and one fits 300."""
    assert PassLimit.halved(budget, longest_tokens=250, gradient_checkpointing=checkpoints) == limit
