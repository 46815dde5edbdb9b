"""Whole runs on `tiny`, in this process."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from core.child import StopRequested
from core.errors import FailureCode, WorkFailed
from core.events import Phase
from tests.models import make_smolvlm2
from tests.unit.training.conftest import digest, losses, stop_after
from training import export, pipeline, trainer
from training.export import ADAPTER_FOLDER, WEIGHTS_FILE
from training.loss import Score
from vlm import loading, tiny

QUICK = {"precision": "fp32", "max_steps": 4, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 5e-3}


def phases(run):
    return [event.phase for event in run.events if event.type == "phase"]


def test_a_model_of_the_smolvlm_class_trains_measures_and_publishes(album, spec, run, models_dir, tmp_path):
    """Its processor cannot count tokens as Idefics3's can, and every job of a SmolVLM2 model ended there."""
    base = make_smolvlm2(tiny.ensure(models_dir), tmp_path / "smolvlm2")
    album.colours(8, 2)
    child_run = run()
    asked = {"base_model": str(base), "method": {"type": "qlora"}, "hyperparameters": QUICK}
    result = pipeline.fine_tune(spec(**asked, image={"longest_edge": 64, "split": True}), child_run.child)
    assert losses(child_run)[-1] < losses(child_run)[0]
    assert 0 <= result["metrics"]["eval_token_accuracy"] <= 1
    config = json.loads((child_run.child.staging / ADAPTER_FOLDER / "processor_config.json").read_text())
    assert config["processor_class"] == "SmolVLMProcessor"


@pytest.mark.parametrize("method", [{"type": "qlora"}, {"type": "qlora", "quantization": "int8"}, {"type": "lora"}])
def test_the_loss_goes_down_over_thirty_steps(album, spec, run, method):
    album.colours(8)
    asked = QUICK | {"max_steps": 30}
    child_run = run()
    result = pipeline.fine_tune(spec(method=method, hyperparameters=asked), child_run.child)
    found = losses(child_run)
    assert len(found) == 30
    assert found[-1] < found[0] - 1  # of the 1.3 nats that the frozen head of `tiny` allows
    assert result["metrics"]["loss"] == found[-1]
    assert result["metrics"]["trained_examples"] == 120


def test_a_run_tells_its_phases_its_settings_and_its_result(album, spec, run):
    album.colours(8, 3)
    child_run = run()
    result = pipeline.fine_tune(spec(hyperparameters=QUICK, seed=7), child_run.child)
    assert phases(child_run) == [
        Phase.LOADING,
        Phase.PREPARING,
        Phase.TRAINING,
        Phase.EVALUATING,
        Phase.TRAINING,
        Phase.EVALUATING,
        Phase.PUBLISHING,
    ]
    (resolved,) = [event for event in child_run.events if event.type == "resolved"]
    assert resolved.settings["hyperparameters"]["batch_size"] == 4
    assert resolved.settings["method"]["quantization"] == "nf4"
    assert resolved.settings["data"]["image_tokens_per_image"] == 7
    assert resolved.settings["data"]["tiles_per_image"] == {"min": 1, "median": 1, "max": 1}
    assert resolved.settings["data"]["tokens_per_image"] == {"min": 7, "median": 7, "max": 7}
    assert resolved.provenance["dataset_digest"] == "d1"
    assert resolved.provenance["seed"] == 7
    assert resolved.provenance["base_model"]["revision"] == result["base_revision"]
    assert resolved.provenance["versions"]["trl"]
    assert any("7 tokens per image" in event.message for event in child_run.events if event.type == "log")
    (planned,) = [event.plan for event in child_run.events if event.type == "planned"]
    assert [each["phase"] for each in planned["phases"]] == ["loading", "preparing", "training", "evaluating"]
    assert set(result["peak_memory_by_phase"]) >= {each["phase"] for each in planned["phases"]}
    assert result["peak_memory_bytes"] == max(result["peak_memory_by_phase"].values())
    assert 0 < result["supervised_tokens_ratio"] < 1


def test_tiles_tokens_and_what_could_be_saved_are_told_before_the_first_step(album, spec, run):
    names = [album.image("red", size) for size in ((30, 30), (50, 30), (128, 128), (30, 30))]
    album.write(*(album.example(("user", f"@{name}", "?"), ("assistant", "red")) for name in names))
    asked = spec(hyperparameters={"max_steps": 1}, image={"longest_edge": 128, "split": True})
    child_run = run()
    pipeline.fine_tune(asked, child_run.child)
    kinds = [event.type for event in child_run.events]
    before = [event for event in child_run.events[: kinds.index("metric")] if event.type == "log"]
    assert any("13 to 17 tiles (median 17) and 83 to 108 tokens (median 108) per image" in e.message for e in before)
    (saving,) = [event.message for event in before if "would leave" in event.message]
    assert "image.upscale false would leave" in saving
    assert "image.longest_edge" not in saving, "it was asked for"

    small_run = run("small")
    small = asked.model_copy(update={"image": asked.image.model_copy(update={"upscale": False})})
    pipeline.fine_tune(small, small_run.child)
    (resolved,) = [event for event in small_run.events if event.type == "resolved"]
    assert resolved.settings["image"]["upscale"] is False
    assert resolved.settings["data"]["tiles_per_image"] == {"min": 1, "median": 1, "max": 17}
    promised = int(saving.split("would leave ")[1].split()[0].replace(",", ""))
    assert resolved.settings["data"]["tokens"] == promised
    assert not any("would leave" in event.message for event in small_run.events if event.type == "log")


def test_validation_runs_after_each_epoch_and_once_at_the_end(album, spec, run):
    album.colours(8, 3)
    child_run = run()
    result = pipeline.fine_tune(spec(hyperparameters=QUICK | {"max_steps": 5}), child_run.child)
    scored = [metric for metric in child_run.metrics if "eval_loss" in metric]
    assert [metric["step"] for metric in scored] == [2, 4, 5]
    assert [metric["epoch"] for metric in scored] == [1.0, 2.0, 2.5]
    assert all(0 <= metric["eval_token_accuracy"] <= 1 for metric in scored)
    assert result["metrics"]["eval_loss"] == scored[-1]["eval_loss"]


def test_without_a_validation_split_there_are_no_validation_metrics(album, spec, run):
    album.colours(8)
    child_run = run()
    result = pipeline.fine_tune(spec(hyperparameters=QUICK), child_run.child)
    assert Phase.EVALUATING not in phases(child_run)
    assert "eval_loss" not in result["metrics"]


def test_the_same_seed_makes_the_same_adapter_byte_for_byte(album, spec, run):
    album.colours(8, 3)
    asked = spec(method={"dropout": 0.2}, hyperparameters=QUICK, seed=3)
    one, other = run("one"), run("other")
    for child_run in (one, other):
        pipeline.fine_tune(asked, child_run.child)
    assert losses(one) == losses(other)
    assert digest(one) == digest(other)


def test_another_seed_makes_another_adapter(album, spec, run):
    album.colours(8)
    one, other = run("one"), run("other")
    pipeline.fine_tune(spec(hyperparameters=QUICK, seed=1), one.child)
    pipeline.fine_tune(spec(hyperparameters=QUICK, seed=2), other.child)
    assert digest(one) != digest(other)


def test_validating_does_not_change_what_is_learned(album, spec, run):
    album.colours(8, 3)
    with_validation, without = run("with"), run("without")
    pipeline.fine_tune(spec(hyperparameters=QUICK), with_validation.child)
    album.colours(8)
    pipeline.fine_tune(spec(hyperparameters=QUICK), without.child)
    assert digest(with_validation) == digest(without)


def test_checkpointing_gradients_does_not_change_what_is_learned(album, spec, run):
    album.colours(8)
    plain, full, selective = run("plain"), run("full"), run("selective")
    for child_run, how in ((plain, False), (full, True), (selective, "selective")):
        pipeline.fine_tune(spec(hyperparameters=QUICK | {"gradient_checkpointing": how}), child_run.child)
    assert losses(plain) == pytest.approx(losses(full), rel=1e-5)
    assert losses(plain) == pytest.approx(losses(selective), rel=1e-5)


def test_a_stop_ends_the_training_within_a_step_and_publishes_nothing(album, spec, run):
    album.colours(8)
    child_run = run()
    child_run.child.events.emit = stop_after(child_run, step=2)
    with pytest.raises(StopRequested):
        pipeline.fine_tune(spec(hyperparameters=QUICK | {"max_steps": 50}), child_run.child)
    assert child_run.metrics[-1]["step"] == 2
    assert not (child_run.child.staging / ADAPTER_FOLDER).exists()


def test_a_run_draws_the_same_whatever_was_drawn_before_it_prepares(album, spec, run, monkeypatch):
    """The job that built `lensmith-demo` had another adapter to begin with than the next one with the same seed."""
    album.colours(8)
    load, digests = loading.load, []
    for name, draws in (("found", 0), ("built", 1000)):
        monkeypatch.setattr(loading, "load", lambda *each, n=draws, **named: (torch.randn(n), load(*each, **named))[1])
        child_run = run(name)
        pipeline.fine_tune(spec(hyperparameters=QUICK, method={"dropout": 0.1}, seed=1), child_run.child)
        digests.append(digest(child_run))
    assert digests[0] == digests[1]


def test_a_loss_that_is_no_number_ends_the_run_as_diverged(album, spec, run, monkeypatch):
    album.colours(8)
    monkeypatch.setattr(trainer, "score", broken_score)
    child_run = run()
    with pytest.raises(WorkFailed) as failure:
        pipeline.fine_tune(spec(hyperparameters=QUICK), child_run.child)
    assert failure.value.code is FailureCode.DIVERGED
    assert losses(child_run) == [None]


def broken_score(model, batch):
    parameter = next(p for p in model.parameters() if p.requires_grad)
    return Score(loss_sum=parameter.sum() * math.nan, num_correct=0, num_tokens=1)


def test_an_adapter_of_numbers_that_are_not_finite_is_not_published(album, spec, run, monkeypatch):
    album.colours(8)
    write = export.write

    def write_spoiled(model, folder, **rest):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.fill_(math.inf)
                break
        write(model, folder, **rest)

    monkeypatch.setattr(export, "write", write_spoiled)
    with pytest.raises(WorkFailed) as failure:
        pipeline.fine_tune(spec(hyperparameters=QUICK), run().child)
    assert failure.value.code is FailureCode.DIVERGED


def warnings_of(run):
    return [event.message for event in run.events if event.type == "log" and event.level == "warning"]


def test_an_adapter_that_changes_nothing_comes_with_a_warning(album, spec, run):
    album.colours(4)
    idle, busy = run("idle"), run("busy")
    pipeline.fine_tune(spec(hyperparameters=QUICK | {"learning_rate": 1e-60}), idle.child)
    pipeline.fine_tune(spec(hyperparameters=QUICK), busy.child)
    assert "changes nothing" in warnings_of(idle)[0]
    assert warnings_of(busy) == []


def test_a_data_set_without_training_rows_is_refused(album, spec, run):
    album.colours(0, 3)
    with pytest.raises(WorkFailed) as failure:
        pipeline.fine_tune(spec(), run().child)
    assert failure.value.code is FailureCode.BAD_DATA


def test_a_row_too_long_for_the_context_is_refused_before_training(album, spec, run):
    album.write(album.question("a?", "b"), album.question("x" * 1100, "b", row=2))
    child_run = run()
    with pytest.raises(WorkFailed, match="Row 2 has 1,1"):
        pipeline.fine_tune(spec(hyperparameters=QUICK), child_run.child)
    assert Phase.TRAINING not in phases(child_run)


def test_a_picture_that_is_gone_is_a_storage_failure(album, spec, run):
    album.colours(4)
    for picture in (album.folder / "images").iterdir():
        picture.unlink()
    with pytest.raises(WorkFailed) as failure:
        pipeline.fine_tune(spec(hyperparameters=QUICK), run().child)
    assert failure.value.code is FailureCode.STORAGE
    assert failure.value.retryable


def test_bf16_trains_on_the_cpu_too(album, spec, run):
    album.colours(8)
    child_run = run()
    pipeline.fine_tune(spec(hyperparameters=QUICK | {"precision": "bf16", "max_steps": 10}), child_run.child)
    assert losses(child_run)[-1] < losses(child_run)[0]


@pytest.mark.parametrize(
    "asked",
    [
        {"lr_scheduler": "cosine", "warmup_ratio": 0.2},
        {"lr_scheduler": "constant_with_warmup", "warmup_ratio": 0.2},
        {"lr_scheduler": "constant", "weight_decay": 0.1},
        {"loraplus_lr_ratio": 4, "max_grad_norm": 0.5, "neftune_alpha": 5},
    ],
)
def test_every_optimizer_and_schedule_learns(album, spec, run, asked):
    album.colours(8)
    child_run = run()
    pipeline.fine_tune(spec(hyperparameters=QUICK | {"max_steps": 10} | asked), child_run.child)
    assert losses(child_run)[-1] < losses(child_run)[0]
    assert warnings_of(child_run) == []


@pytest.mark.parametrize(
    "method",
    [
        {"quantization": "fp4", "double_quantization": False, "use_dora": True, "dropout": 0.1},
        {"quantization": "int8", "use_rslora": True, "init": "gaussian"},
        {"type": "lora", "init": "pissa", "r": 4},
        {"type": "lora", "train_connector": True},
        {"type": "lora", "train_vision": True, "exclude_modules": ["layers.0.mlp"]},
        {"train_connector": True, "train_vision": True, "use_dora": True},
    ],
)
def test_every_method_learns_is_published_and_told(album, spec, run, method):
    album.colours(8)
    child_run = run()
    pipeline.fine_tune(spec(method=method, hyperparameters=QUICK | {"max_steps": 10}), child_run.child)
    assert losses(child_run)[-1] < losses(child_run)[0]
    (resolved,) = [event for event in child_run.events if event.type == "resolved"]
    assert method.items() <= resolved.settings["method"].items()
    written = load_file(child_run.child.staging / ADAPTER_FOLDER / WEIGHTS_FILE)
    idle = [name for name, tensor in written.items() if ".lora_B." in name and not tensor.any()]
    assert idle == [], "what is to be trained must be reached by gradients, wherever the images come from"


def test_an_optimizer_of_8_bits_learns_where_its_state_has_8_bits(album, spec, run):
    """bitsandbytes keeps the state of tensors below 4,096 numbers in 32 bits: at r 8, all of `tiny`."""
    album.colours(8)
    child_run = run()
    asked = QUICK | {"max_steps": 10, "optimizer": "adamw_8bit"}
    pipeline.fine_tune(spec(method={"r": 64}, hyperparameters=asked), child_run.child)
    assert losses(child_run)[-1] < losses(child_run)[0]
    assert warnings_of(child_run) == []


def test_an_option_that_changes_what_is_learned_does_so(album, spec, run):
    album.colours(8)
    learned = set()
    for number, asked in enumerate([{}, {"neftune_alpha": 15}, {"loraplus_lr_ratio": 16}, {"max_grad_norm": 1e-3}]):
        child_run = run(f"run {number}")
        pipeline.fine_tune(spec(hyperparameters=QUICK | {"max_steps": 2} | asked), child_run.child)
        learned.add(digest(child_run))
    assert len(learned) == 4


def test_a_setting_that_this_device_cannot_have_is_a_warning_that_the_user_sees(album, spec, run):
    album.colours(8)
    asked = {"optimizer": "paged_adamw_8bit", "activation_offload": True, "gradient_checkpointing": True}
    child_run = run()
    pipeline.fine_tune(spec(hyperparameters=QUICK | asked), child_run.child)
    assert warnings_of(child_run) == [
        "hyperparameters.optimizer paged_adamw_8bit needs a GPU; this run uses adamw_8bit.",
        "hyperparameters.activation_offload needs a GPU; activations are in the host's memory already.",
    ]
    (resolved,) = [event for event in child_run.events if event.type == "resolved"]
    assert resolved.settings["hyperparameters"]["optimizer"] == "adamw_8bit"
    assert resolved.settings["hyperparameters"]["activation_offload"] is False
