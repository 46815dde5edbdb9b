"""A run that was interrupted and goes on is, number for number, the run that never was."""

import signal

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file

from core.child import StopRequested
from core.errors import FailureCode, WorkFailed
from tests.unit.training.conftest import digest, losses, num_packed
from tests.unit.training.resuming import ASKED, PLAIN, QUICK, Scene, figures, run_process, saved, told
from training import adapter, pipeline, saver
from training.checkpoint import CHECKPOINTS_FOLDER
from training.export import WEIGHTS_FILE
from training.trainer import Trainer
from training.vision import Tower


@pytest.fixture(scope="module")
def scene(tmp_path_factory, models_dir):
    return Scene(tmp_path_factory.mktemp("resume"), models_dir)


@pytest.fixture(scope="module")
def uninterrupted(scene):
    return scene.uninterrupted


def test_a_run_that_is_killed_three_times_ends_as_if_nothing_had_happened(scene, uninterrupted):
    """Killed within an epoch, between an epoch's end and its validation, and while it saves."""
    killed = scene.new()
    folder = killed.child.staging.parent
    asked = scene.spec(resume_from=killed.child.staging / CHECKPOINTS_FOLDER)
    seen = []
    for kill, first_told in (
        (("metric", "7"), (1, False)),
        (("checkpoint", "8"), (7, False)),
        (("rename", "11"), (8, True)),
    ):
        status, events = run_process(asked, folder, *kill)
        metrics = [event.data for event in events if event.type == "metric"]
        assert (status, told(metrics)[0]) == (-signal.SIGKILL, first_told)
        seen += metrics
    result = pipeline.fine_tune(asked, killed.child)
    assert told(killed.metrics)[0] == (10, False)
    seen += killed.metrics
    expected = figures(uninterrupted.metrics)
    assert figures(seen).keys() == expected.keys()
    assert all(figures([each]).items() <= expected.items() for each in seen)
    assert digest(killed) == digest(uninterrupted)
    assert result["metrics"] == uninterrupted.result["metrics"]
    assert sorted(each.name for each in (killed.child.staging / CHECKPOINTS_FOLDER).iterdir()) == [
        "step-00000009",
        "step-00000011",
    ]


def test_the_run_that_is_interrupted_packs_its_rows_and_has_no_tower(scene, uninterrupted, monkeypatch):
    """Else nothing here would prove that such a run goes on exactly."""
    assert len(scene.steps) == 11
    assert all(len(step) >= 2 for number, step in enumerate(scene.steps, start=1) if number % 4), "several passes"
    assert num_packed(scene.steps[:5]) >= 2
    assert num_packed(scene.steps[5:]) >= 2
    monkeypatch.setattr(Tower, "encode", None)
    rest = scene.go_on(scene.stopped_once(5))
    assert any(event.message == "2 images; the features of 2 are in the cache." for event in logs(rest))
    assert digest(rest) == digest(uninterrupted)


def logs(part):
    return [event for event in part.events if event.type == "log"]


def test_it_saves_every_few_steps_and_at_the_end_of_each_epoch(uninterrupted):
    assert saved(uninterrupted) == [3, 4, 6, 8, 9, 11]
    kinds = [event.type for event in uninterrupted.events if event.type in {"metric", "checkpoint"}]
    assert kinds[3:8] == ["checkpoint", "metric", "checkpoint", "metric", "metric"]  # step 3, 4, its validation, 5


@pytest.mark.parametrize("step", [5, 4, 11], ids=["in an epoch", "at the end of an epoch", "at the end of the run"])
def test_a_run_that_is_stopped_saves_and_tells_nothing_twice(scene, uninterrupted, step):
    part = scene.stopped_once(step)
    assert saved(part)[-1] == step
    rest = scene.go_on(part)
    assert told(part.metrics) + told(rest.metrics) == told(uninterrupted.metrics)
    assert figures(part.metrics + rest.metrics) == figures(uninterrupted.metrics)
    assert digest(rest) == digest(uninterrupted)
    assert rest.result["metrics"] == uninterrupted.result["metrics"]


def test_a_stop_within_a_step_gives_the_half_step_up(scene, uninterrupted, monkeypatch):
    """Its dropout has drawn random numbers by then; the checkpoint must hold those of the step's beginning."""
    part, compute_loss = scene.new(), Trainer.compute_loss

    def stop_in_step_6(trainer, *batch, **rest):
        if trainer.state.global_step == 5:
            part.child.stop.set()
        return compute_loss(trainer, *batch, **rest)

    monkeypatch.setattr(Trainer, "compute_loss", stop_in_step_6)
    with pytest.raises(StopRequested):
        pipeline.fine_tune(scene.spec(), part.child)
    monkeypatch.undo()
    assert saved(part)[-1] == 5
    rest = scene.go_on(part)
    assert told(part.metrics) + told(rest.metrics) == told(uninterrupted.metrics)
    assert digest(rest) == digest(uninterrupted)


@pytest.mark.parametrize(
    "asked",
    [
        PLAIN | {"method": {"dropout": 0.3, "quantization": "int8"}},
        {
            "method": {"dropout": 0.3, "use_dora": True, "r": 64},  # smaller, and no state has 8 bits
            "hyperparameters": ASKED["hyperparameters"] | {"optimizer": "adamw_8bit", "lr_scheduler": "cosine"},
        },
        {
            "method": {"type": "lora", "init": "pissa", "use_dora": True, "train_connector": True},
            "hyperparameters": ASKED["hyperparameters"] | {"neftune_alpha": 5, "loraplus_lr_ratio": 4},
        },
    ],
    ids=[
        "int8 without features and packing",
        "DoRA and an 8-bit optimizer",
        "PiSSA, DoRA, connector, LoRA+ and NEFTune",
    ],
)
def test_other_adapters_and_optimizers_go_on_exactly_too(scene, asked):
    whole = scene.run(**asked)
    part = scene.stopped(5, **asked)
    rest = scene.go_on(part, **asked)
    assert losses(part) + losses(rest) == losses(whole)
    assert digest(rest) == digest(whole)


def test_a_resumed_run_that_is_stopped_before_its_first_step_saves_nothing_new(scene, uninterrupted):
    """It is told to stop by the validation that it makes up for."""
    again = scene.stopped(4, resume_from=scene.stopped_once(4).child.staging / CHECKPOINTS_FOLDER)
    assert told(again.metrics) == [(4, True)]
    assert saved(again) == []
    assert figures(again.metrics).items() <= figures(uninterrupted.metrics).items()


def test_a_finished_run_that_is_stopped_before_it_is_published_saves_nothing_new(scene):
    again = scene.new()
    emit = again.child.events.emit

    def emit_and_stop(event):
        emit(event)
        if event.type == "log" and "goes on after step 11" in event.message:
            again.child.stop.set()

    again.child.events.emit = emit_and_stop
    with pytest.raises(StopRequested):
        pipeline.fine_tune(
            scene.spec(resume_from=scene.stopped_once(11).child.staging / CHECKPOINTS_FOLDER), again.child
        )
    assert saved(again) == []


def test_without_a_whole_checkpoint_a_run_begins_at_its_first_step_and_says_so(scene, uninterrupted):
    rest = scene.go_on(scene.new())
    assert digest(rest) == digest(uninterrupted)
    (warning,) = [event.message for event in rest.events if event.type == "log" and event.level == "warning"]
    assert "begins at its first step" in warning


def test_what_was_left_to_us_stays_what_it_was_on_other_hardware(scene, uninterrupted, monkeypatch):
    """Else a job that went from one worker to another, with other memory, could not go on."""
    auto = QUICK | {"micro_batch_tokens": "auto", "packing": "auto", "precision": "auto", "checkpoint_every": 3}
    monkeypatch.setattr("training.settings.CPU_MICRO_BATCH_TOKENS", QUICK["micro_batch_tokens"])
    monkeypatch.setattr("training.device.preferred_dtype", lambda: torch.float32)
    part = scene.stopped(5, hyperparameters=auto)
    monkeypatch.undo()
    monkeypatch.setattr("training.device.preferred_dtype", lambda: torch.bfloat16)
    rest = scene.go_on(part, hyperparameters=auto)
    assert figures(part.metrics + rest.metrics) == figures(uninterrupted.metrics)
    assert digest(rest) == digest(uninterrupted)
    with pytest.raises(WorkFailed, match="micro_batch_tokens was 128 and is 256"):
        scene.go_on(part, hyperparameters=auto | {"micro_batch_tokens": 256})


@pytest.mark.parametrize(
    ("asked", "code", "named"),
    [
        ({"dataset_digest": "d2"}, FailureCode.BAD_DATA, "data set: its digest was d1 and is d2"),
        ({"seed": 4}, FailureCode.STORAGE, "seed was 3 and is 4"),
        ({"method": {"dropout": 0.3, "r": 4}}, FailureCode.STORAGE, "method.r was 8 and is 4"),
        (
            {"hyperparameters": QUICK | {"learning_rate": 1e-3}},
            FailureCode.STORAGE,
            "hyperparameters.learning_rate was 0.005 and is 0.001",
        ),
        ({"image": {"longest_edge": 64}}, FailureCode.STORAGE, "image.longest_edge"),
    ],
    ids=["data", "seed", "method", "schedule", "image"],
)
def test_a_checkpoint_of_another_run_is_refused(scene, asked, code, named):
    with pytest.raises(WorkFailed, match=named) as refused:
        scene.go_on(scene.stopped_once(4), **asked)
    assert refused.value.code is code
    assert "new job" in refused.value.remedy


def test_how_often_it_is_saved_may_change(scene, uninterrupted):
    rest = scene.go_on(scene.stopped_once(5), hyperparameters=QUICK | {"checkpoint_every": 1})
    assert saved(rest) == [6, 7, 8, 9, 10, 11]
    assert digest(rest) == digest(uninterrupted)


def test_weights_that_are_not_numbers_are_never_saved(scene, monkeypatch):
    """The loss of the step before is still finite; whoever went on from such a checkpoint would diverge at once."""
    broken = scene.new()
    on_step_end = saver.Saver.on_step_end

    def spoil(self, *event, **kwargs):
        on_step_end(self, *event, **kwargs)
        if event[1].global_step == 3:
            next(p for p in kwargs["model"].parameters() if p.requires_grad).data.fill_(float("nan"))

    monkeypatch.setattr(saver.Saver, "on_step_end", spoil)
    with pytest.raises(WorkFailed) as failure:
        pipeline.fine_tune(scene.spec(), broken.child)
    assert failure.value.code is FailureCode.DIVERGED
    assert saved(broken) == []


def test_an_adapter_that_did_not_arrive_is_noticed(scene, uninterrupted, load):
    """Wrapped twice, the model keeps its fresh adapter and the file's names fit nothing (lerobot #3459)."""
    folder = uninterrupted.child.staging / CHECKPOINTS_FOLDER / "step-00000011"
    model = adapter.wrap(load("nf4"), scene.spec().method, name="tiny")
    with pytest.raises(WorkFailed, match="did not arrive"):
        saver.check_loaded(model, folder)
    model.load_adapter(folder, "default", is_trainable=True)
    saver.check_loaded(model, folder)


def test_an_adapter_in_another_type_is_noticed_although_its_numbers_are_the_same(scene, load, tmp_path):
    model = adapter.wrap(load("nf4"), scene.spec().method, name="tiny")
    ones = {name: torch.ones_like(tensor) for name, tensor in weights_of(model).items()}
    save_file(ones, tmp_path / WEIGHTS_FILE)
    model.load_adapter(tmp_path, "default", is_trainable=True)
    saver.check_loaded(model, tmp_path)
    with pytest.raises(WorkFailed, match="did not arrive"):
        saver.check_loaded(model.bfloat16(), tmp_path)


def weights_of(model):
    return get_peft_model_state_dict(model, save_embedding_layers=False)


def full_disk(monkeypatch):
    """torch reports a disk that takes no more as a bare RuntimeError."""

    def write(self, folder):
        raise RuntimeError("[enforce fail at inline_container.cc:672] unexpected pos 64 vs 0")

    monkeypatch.setattr(Trainer, "write_state", write)


def test_a_checkpoint_that_the_disk_does_not_take_is_a_failure_of_storage(scene, monkeypatch):
    full_disk(monkeypatch)
    with pytest.raises(WorkFailed) as failure:
        scene.run()
    assert failure.value.code is FailureCode.STORAGE
    assert failure.value.retryable


def test_a_run_that_is_stopped_ends_as_stopped_though_the_disk_is_full(scene, monkeypatch):
    full_disk(monkeypatch)
    run = scene.stopped(1)
    assert "not saved" in "".join(event.message for event in run.events if event.type == "log")
