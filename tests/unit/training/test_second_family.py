"""Whole runs on a family whose images are no tiles: the proof that the pipeline knows none."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from core.errors import WorkFailed
from tests.engine import alone, collator_of, pixel_vision
from tests.qwen import make_qwen2_5_vl
from training import adapter, export, pipeline
from training.distributed import ALONE
from training.export import ADAPTER_FOLDER, WEIGHTS_FILE
from training.image_sizes import saving_sentence
from training.spec import Method
from vlm import loading
from vlm.image_options import ImageOptions

STEPS = {"precision": "fp32", "max_steps": 4, "batch_size": 4, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return make_qwen2_5_vl(tmp_path_factory.mktemp("qwen"), liveliness=2)


@pytest.fixture
def dataset(album):
    """Rows with no, one and three pictures, of one and two turns."""
    tall, wide = album.image("red", (40, 90)), album.image("blue", (90, 40))
    album.write(
        album.example(("user", f"@{tall}", "Which colour?"), ("assistant", "red"), row=1),
        album.question("Say hello.", "Hello to all of you!", row=2),
        album.example(("user", f"@{tall}", f"@{wide}", f"@{tall}", "Which?"), ("assistant", "red, blue, red"), row=3),
        album.example(("user", f"@{wide}", "1?"), ("assistant", "one", 0), ("user", "2?"), ("assistant", "two"), row=4),
        album.example(("user", f"@{wide}", "Which colour?"), ("assistant", "blue"), row=5, split="validation"),
    )


@pytest.fixture
def trained(dataset, spec, run, qwen, tmp_path):
    """Return a function that trains and returns what the child said, its losses, and the result."""

    def trained(name, **asked):
        child_run = run(name)
        settled = {"base_model": str(qwen), "method": {"type": "lora"}, "features_dir": tmp_path / "features"} | asked
        result = pipeline.fine_tune(spec(**{"features_bytes": 10**8} | settled), child_run.child)
        losses = [metric["loss"] for metric in child_run.metrics if "loss" in metric]
        return child_run, losses, result

    return trained


def test_the_loss_is_the_same_with_and_without_the_feature_cache(trained):
    cached, kept, evaluated = trained("kept", hyperparameters=STEPS)
    _, anew, evaluated_anew = trained("anew", hyperparameters=STEPS | {"feature_cache": False})
    _, again, _ = trained("again", hyperparameters=STEPS)
    assert kept == anew == again
    assert evaluated["metrics"]["eval_loss"] == evaluated_anew["metrics"]["eval_loss"]
    assert kept[-1] < kept[0] - 0.2
    said = [event.message for event in cached.events if event.type == "log"]
    assert "2 images; the features of 0 are in the cache." in said
    assert any("; 12 tokens per image; " in message for message in said), "and nothing of tiles"


def test_packed_rows_train_as_rows_of_their_own(trained):
    packed_run, packed, _ = trained("packed", hyperparameters=STEPS | {"packing": True})
    _, alone, _ = trained("alone", hyperparameters=STEPS | {"packing": False, "micro_batch_size": 1})
    (resolved,) = [event for event in packed_run.events if event.type == "resolved"]
    assert resolved.settings["hyperparameters"]["packing"] is True
    assert packed == pytest.approx(alone, abs=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 asks by the old name
def test_a_quantized_run_with_bounded_pictures_publishes_an_adapter_that_plain_peft_loads(trained, qwen):
    child_run, losses, _ = trained(
        "bounded", method={"type": "qlora"}, hyperparameters=STEPS, image={"longest_edge": 48}
    )
    assert losses[-1] < losses[0]
    (resolved,) = [event for event in child_run.events if event.type == "resolved"]
    assert resolved.settings["image"]["longest_edge"] == 48
    assert resolved.settings["data"]["image_tokens_per_image"] == 8  # of 90 x 40 pixels; 2 x 4 tokens of 16 x 16
    folder = child_run.child.staging / ADAPTER_FOLDER
    saved = json.loads((folder / "processor_config.json").read_text())
    assert saved["image_processor"]["size"]["longest_edge"] == 48 * 48
    assert saved["processor_class"] == "Qwen2_5_VLProcessor"
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(qwen), folder)
    assert all(".language_model." in name for name, _ in model.named_parameters() if "lora_" in name)


def test_a_row_with_a_picture_that_the_base_does_not_take_is_named(album, spec, run, qwen):
    sliver = album.image("red", (300, 1))
    album.write(album.example(("user", f"@{sliver}", "What?"), ("assistant", "red"), row=3))
    with pytest.raises(WorkFailed, match=r"does not take row 3: an image is 300 x 1 pixels"):
        pipeline.fine_tune(spec(base_model=str(qwen)), run().child)


def test_a_row_that_is_too_long_is_told_what_would_help(album, spec, run, qwen):
    album.write(album.question("x" * 1100, "y", images=1))
    with pytest.raises(WorkFailed, match="Row 1 has 1,1") as refused:
        pipeline.fine_tune(spec(base_model=str(qwen)), run().child)
    assert refused.value.remedy == "Shorten or split the row, or lower image.longest_edge."


def test_a_connector_that_lies_in_the_tower_is_refused_by_name(dataset, spec, run, qwen):
    asked = {"type": "lora", "train_connector": True}
    with pytest.raises(WorkFailed, match=r"method\.train_connector has no meaning"):
        pipeline.fine_tune(spec(base_model=str(qwen), method=asked), run().child)


DORA_WITH_VISION = {"type": "lora", "use_dora": True, "train_vision": True}


def test_a_run_of_dora_with_the_vision_tower_learns_and_publishes_both(trained):
    child_run, losses, _ = trained("both", method=DORA_WITH_VISION, hyperparameters=STEPS)
    assert losses[-1] < losses[0] - 0.2
    weights = load_file(child_run.child.staging / ADAPTER_FOLDER / WEIGHTS_FILE)
    updates = {name: weight for name, weight in weights.items() if "lora_B" in name}
    assert sum(".language_model." in name for name in updates) == 2 * 7
    assert sum(".visual.blocks." in name for name in updates) == 2 * 3
    assert all(weight.any() for weight in updates.values())
    assert sum("lora_magnitude_vector" in name for name in weights) == len(updates)


@pytest.fixture
def load_qwen(qwen):
    """Return a function that loads the base anew."""
    resolved = loading.resolve(str(qwen), models_dir=qwen)
    return lambda: loading.load(resolved, quantization="none", dtype=torch.float32)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT 0.21, of transformers 5.23
def test_plain_peft_answers_as_the_trained_model_of_dora_with_the_vision_tower_does(
    load_qwen, album, encoder_of, tmp_path
):
    method, base = Method.model_validate(DORA_WITH_VISION), load_qwen()
    rows = [album.question("what?", "red", images=2), album.question("and now?", "blue")]
    batch = collator_of(base, rows, encoder_of(base), vision=pixel_vision(base, encoder_of(base))).batch(alone(0, 1))
    batch.pop("labels")
    model = _moved(adapter.wrap(base, method, name="base"))
    export.write_adapter(model, tmp_path, ALONE.trained_weights(model))
    assert not export.verify(tmp_path, model, family=base.family, method=method).is_noop
    fresh = load_qwen().model.eval()
    with torch.no_grad():
        expected, untouched = model(**batch).logits, fresh(**batch).logits
        loaded = PeftModel.from_pretrained(fresh, tmp_path).eval()
        torch.testing.assert_close(loaded(**batch).logits, expected, rtol=1e-5, atol=1e-5)
    assert (expected - untouched).abs().max() > 0.02


def _moved(model):
    """Return a wrapped model, all of whose trained parameters moved."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize(
    ("longest_edge", "told"), [(160, "image.longest_edge 80 would leave"), (10_000, None)], ids=["large", "beyond"]
)
def test_only_options_that_the_base_can_follow_are_told_as_cheaper(load_qwen, album, encoder_of, longest_edge, told):
    """Half of an edge that a base of 100 million pixels comes with would be more than a job may ask for."""
    base = load_qwen()
    cutter = base.processor.image_processor
    cutter.size = type(cutter.size)(shortest_edge=32 * 32, longest_edge=longest_edge**2)
    row = album.example(("user", f"@{album.image('red', (160, 160))}", "?"), ("assistant", "red"))
    encoder, image = encoder_of(base), base.family.image_settings(base.processor)
    tokens = encoder.measure(row).tokens
    said = saving_sentence([row], encoder, tokens=tokens, image=image, asked=ImageOptions())
    assert (said and told in said and "upscale" not in said) if told else said is None
