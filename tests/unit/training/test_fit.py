"""The ladder: what is left to us is chosen so that a run fits a budget, and what cannot fit says what would do."""

import re
from functools import cache
from types import SimpleNamespace

import pytest

from core.errors import FailureCode, WorkFailed
from training import pipeline
from training.fit import Recipe, fit, too_large
from training.passes import ImageSize, Size, Sizes
from training.planning import plan_run
from training.settings import resolve
from training.spec import Hyperparameters, Method
from vlm.geometry import find
from vlm.image_options import ImageOptions


def sizes(longest_edge):
    """Return what 64 pictures and short questions come to: 13 tiles at 2048 px, 4 at 1024, 1 at 512."""
    tiles = {None: 13, 1024: 4, 512: 1}[longest_edge]
    size = Size(tokens=70 * tiles + 300, labelled_tokens=20, tiles=tiles)
    return Sizes(train=[size] * 64, validation=[size] * 8, images=[ImageSize(tiles=tiles, tokens=66 * tiles)] * 64)


@pytest.fixture
def fitted():
    """Fit a run of SmolVLM-500M over 64 long examples."""

    def fitted(budget_gb, *, on_gpu=False, method=None, may_trade=False, **hyperparameters):
        asked = SimpleNamespace(
            hyperparameters=Hyperparameters.model_validate({"batch_size": 16, "precision": "bf16"} | hyperparameters),
            method=Method(**{"r": 64} | (method or {})),
            image=ImageOptions(),
            allow_quality_tradeoff=may_trade,
        )
        schedule = resolve(asked.hyperparameters, num_examples=64, precision="bf16", on_gpu=on_gpu, can_pack=True)

        @cache
        def plan_of(tried):
            device = "cuda" if on_gpu else "cpu"
            size = sizes(tried.image.longest_edge)
            return plan_run(find("smolvlm-500m"), tried.method, tried.schedule, sizes=size, device=device)

        recipe = Recipe(schedule=schedule, method=asked.method.settled, image=asked.image)
        found = fit(asked, recipe, budget_gb=budget_gb, plan_of=plan_of, on_gpu=on_gpu, edges_px=(1024, 512))
        if not found.fits(budget_gb):
            raise too_large(found, budget_gb)
        return found

    return fitted


def smallest(fitted, **asked):
    """Return the smallest budget that is offered to a run which cannot have 0.1 GB."""
    with pytest.raises(WorkFailed) as failed:
        fitted(0.1, **asked)
    assert failed.value.code is FailureCode.OUT_OF_MEMORY
    assert not failed.value.retryable
    return float(re.search(r"memory_gb of ([\d.]+)", failed.value.remedy)[1])


def test_what_fits_is_left_as_it_is(fitted):
    found = fitted(100)
    assert found.choices == ()
    assert not found.recipe.schedule.gradient_checkpointing
    assert found.recipe.schedule.optimizer == "adamw"


def test_rungs_are_taken_one_after_the_other_and_only_as_far_as_needed(fitted):
    whole = fitted(100).plan.most_bytes / 1e9
    found = fitted(whole - 0.01)
    assert len(found.choices) == 1
    assert "computed again" in found.choices[0]
    assert found.recipe.schedule.gradient_checkpointing is True
    assert found.plan.most_bytes <= (whole - 0.01) * 1e9


def test_the_smallest_budget_that_is_named_does(fitted):
    least = smallest(fitted)
    found = fitted(least)
    assert found.plan.most_bytes <= least * 1e9
    assert (found.recipe.schedule.optimizer, found.recipe.schedule.compact_memory) == ("adamw_8bit", True)
    assert found.recipe.schedule.batch_size == 16, "the learning problem stays what it is"
    with pytest.raises(WorkFailed):
        fitted(least - 0.1)


def test_what_the_job_asks_for_is_not_changed(fitted):
    asked = {"gradient_checkpointing": False, "optimizer": "adamw", "micro_batch_size": 4, "compact_memory": False}
    assert smallest(fitted, **asked) > smallest(fitted)
    assert fitted(smallest(fitted, **asked), **asked).choices == ()


def test_a_gpu_has_an_allocator_of_its_own(fitted):
    assert not fitted(smallest(fitted, on_gpu=True), on_gpu=True).recipe.schedule.compact_memory


def test_a_base_that_may_be_quantized_is_where_nothing_exact_is_enough(fitted):
    free = {"type": "auto"}
    roomy, short = (
        fitted(100, on_gpu=True, method=free),
        fitted(smallest(fitted, on_gpu=True, method=free), on_gpu=True, method=free),
    )
    assert (roomy.recipe.method.type, roomy.recipe.method.resolved_quantization) == ("lora", "none")
    assert (short.recipe.method.type, short.recipe.method.resolved_quantization) == ("qlora", "nf4")
    assert "4 bits" in short.choices[-1]
    pissa = fitted(
        smallest(fitted, on_gpu=True, method=free | {"init": "pissa"}), on_gpu=True, method=free | {"init": "pissa"}
    )
    assert pissa.recipe.method.type == "lora", "PiSSA needs the weights as they are"


def test_pictures_are_cut_into_fewer_tiles_last_and_only_where_the_job_allows_it(fitted):
    asked = {"feature_cache": False, "compact_memory": False}
    least, allowed = smallest(fitted, **asked), smallest(fitted, may_trade=True, **asked)
    assert allowed < least
    found = fitted(allowed, may_trade=True, **asked)
    assert found.recipe.image.longest_edge in {1024, 512}
    assert "less detail (allow_quality_tradeoff)" in found.choices[-1]
    assert fitted(least, may_trade=True, **asked).recipe.image.longest_edge is None, "the last rung"


def test_a_rung_that_makes_no_difference_is_left_out(fitted):
    found = fitted(smallest(fitted))
    assert found.recipe.schedule.micro_batch_size == 16, "one picture fills a pass already"
    assert not any("half as large" in choice for choice in found.choices)


def test_the_failure_says_where_the_memory_goes(fitted):
    with pytest.raises(WorkFailed, match=r"does not fit resources\.memory_gb 0\.1: .* may hold [\d.]+ GB while"):
        fitted(0.1)


def test_a_run_fits_itself_and_says_what_it_chose(album, spec, run):
    album.colours(8, 3)
    asked = {"hyperparameters": {"max_steps": 2, "batch_size": 4}, "seed": 1}
    free, bound = run("free"), run("bound")
    pipeline.fine_tune(spec(**asked), free.child)
    (plan,) = [event.plan for event in free.events if event.type == "planned"]
    budget = (plan["peak"]["high"] - 1) / 1e9
    pipeline.fine_tune(spec(**asked, resources={"memory_gb": budget}), bound.child)
    (resolved,) = [event.settings["hyperparameters"] for event in bound.events if event.type == "resolved"]
    assert resolved["gradient_checkpointing"] is True
    assert any("computed again" in event.message for event in bound.events if event.type == "log")
    assert [each["loss"] for each in bound.metrics if "loss" in each] == pytest.approx(
        [each["loss"] for each in free.metrics if "loss" in each], rel=1e-4
    )


def test_a_run_goes_on_with_the_base_and_the_pictures_that_it_began_with(album, spec, run, monkeypatch):
    """What a run chose when memory was short stays, also when there is more by then, and the other way round."""
    album.colours(8, 3)
    asked = {
        "method": {"type": "auto"},
        "image": {"split": True},
        "hyperparameters": {"max_steps": 2, "batch_size": 4, "checkpoint_every": 1},
        "allow_quality_tradeoff": True,
    }
    shown = {}
    for name, free in (("roomy", 10**12), ("short", 1)):
        monkeypatch.setattr("training.device.memory_bytes", lambda free=free: free)
        first, again = run(name), run(f"{name} again")
        pipeline.fine_tune(spec(**asked), first.child)
        monkeypatch.setattr("training.device.memory_bytes", lambda free=free: 10**12 + 1 - free)
        pipeline.fine_tune(spec(**asked, resume_from=first.child.staging / "checkpoints"), again.child)
        shown[name], told = (resolved_of(each) for each in (first, again))
        assert (told["method"], told["image"]) == (shown[name]["method"], shown[name]["image"])
    assert shown["roomy"]["method"]["quantization"] == "none"


def resolved_of(child_run):
    (resolved,) = [event.settings for event in child_run.events if event.type == "resolved"]
    return resolved


def test_a_run_that_cannot_fit_ends_before_its_first_step(album, spec, run):
    album.colours(8)
    child_run = run()
    with pytest.raises(WorkFailed, match=r"does not fit resources\.memory_gb 0\.2"):
        pipeline.fine_tune(spec(resources={"memory_gb": 0.2}), child_run.child)
    assert child_run.metrics == []


def test_without_a_budget_a_run_fits_itself_into_what_is_free(album, spec, run, monkeypatch):
    album.colours(8)
    asked = {"hyperparameters": {"max_steps": 1, "batch_size": 4}}
    told = {}
    for name, free in (("roomy", 10**12), ("short", 1), ("unknown", None)):
        monkeypatch.setattr("training.device.memory_bytes", lambda free=free: free)
        child_run = run(name)
        pipeline.fine_tune(spec(**asked), child_run.child)
        told[name] = [event.message for event in child_run.events if event.type == "log"]
    assert any("it is tried all the same" in message for message in told["short"])
    assert any("computed again" in message for message in told["short"])
    for name in ("roomy", "unknown"):
        assert not any("computed again" in message for message in told[name])
