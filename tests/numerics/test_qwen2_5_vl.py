"""Qwen2.5-VL in the training engine: every way to the same logits, and LoRA and 4-bit in the text model only."""

import bitsandbytes as bnb
import pytest
import torch

from tests.engine import alone, collator_of, pixel_vision, tower_of
from tests.qwen import make_qwen2_5_vl
from training import adapter
from training.loss import score
from training.spec import LORA_TARGETS, Method
from training.vision import CachedVision
from vlm import loading

SMALL, TALL, WIDE = ("red", (40, 30)), ("gradient", (60, 130)), ("gradient", (130, 60))
CONVERSATIONS = [
    [("user", 1, SMALL, "Which colour?"), ("assistant", 1, "red")],
    [("user", 1, "Say hello."), ("assistant", 1, "Hello to all of you!")],
    [("user", 1, SMALL, TALL, "1st?"), ("assistant", 1, "r"), ("user", 1, WIDE, "2nd?"), ("assistant", 1, "green")],
    [("user", 1, "see ", TALL), ("assistant", 1, "b")],
]


@pytest.fixture(scope="module")
def resolved(tmp_path_factory):
    folder = make_qwen2_5_vl(tmp_path_factory.mktemp("qwen"), liveliness=4)
    return loading.resolve(str(folder), models_dir=folder)


@pytest.fixture
def base(resolved):
    return loading.load(resolved, quantization="none", dtype=torch.float32)


@pytest.fixture
def rows(shelf):
    return [shelf(*turns) for turns in CONVERSATIONS]


@pytest.fixture
def encoder(base, encoder_of):
    return encoder_of(base)


def logits(base, batch):
    with torch.no_grad():
        return base.model(**{name: value for name, value in batch.items() if name != "labels"}, use_cache=False).logits


def test_a_conversation_scores_as_with_the_inputs_that_its_processor_makes(base, rows, encoder):
    """Tokens, pixels and three-axis positions at once; transformers works the positions out from the grids."""
    for row in rows:
        text = encoder.render(row.messages)
        images = [encoder._images.open_rgb(sha256) for sha256 in row.images]
        theirs = base.processor(text=[text], images=images or None, return_tensors="pt")
        ours = collator_of(base, [row], encoder, vision=pixel_vision(base, encoder)).batch(alone(0))
        assert ours["input_ids"].tolist() == theirs["input_ids"].tolist()
        assert torch.equal(logits(base, ours), base.model(**theirs).logits)


def test_pictures_and_their_places_change_the_logits(base, rows, encoder):
    """Without this, every equality here could hold because nothing is looked at."""
    vision = pixel_vision(base, encoder)
    batch = collator_of(base, rows, encoder, vision=vision).batch(alone(2))
    seen = logits(base, batch)
    for changed in (
        {"pixel_values": -batch["pixel_values"]},
        {"position_ids": batch["position_ids"][:1].expand(4, -1, -1)},
    ):
        assert (logits(base, batch | changed) - seen).abs().max() > 0.1


def test_rows_with_no_one_and_three_images_score_in_a_batch_as_they_do_alone(base, rows, encoder):
    collator = collator_of(base, rows, encoder, vision=pixel_vision(base, encoder))
    together = logits(base, collator.batch(alone(0, 1, 2, 3)))
    for index in range(len(rows)):
        one = logits(base, collator.batch(alone(index)))[0]
        torch.testing.assert_close(together[index, : len(one)], one, rtol=1e-4, atol=1e-5)


def test_examples_behind_each_other_in_one_row_score_as_they_do_alone(base, rows, encoder):
    collator = collator_of(base, rows, encoder)
    packed = logits(base, collator.batch(((2, 0), (1, 3))))
    for row, examples in zip(packed, ((2, 0), (1, 3)), strict=True):
        at = 0
        for example in examples:
            one = logits(base, collator.batch(alone(example)))[0]
            torch.testing.assert_close(row[at : at + len(one)], one, rtol=1e-4, atol=1e-5)
            at += len(one)


def test_features_of_the_frozen_tower_give_the_logits_of_pixels(base, rows, encoder):
    """The tower looks at one image at a time, and at all of a batch in the graph: 0 apart here, a rounding elsewhere."""
    pixels = collator_of(base, rows, encoder, vision=pixel_vision(base, encoder)).batch(alone(0, 1, 2, 3))
    features = collator_of(base, rows, encoder).batch(alone(0, 1, 2, 3))
    assert "pixel_values" in pixels
    assert "mm_encoder_outputs" in features
    torch.testing.assert_close(logits(base, features), logits(base, pixels), rtol=1e-5, atol=1e-6)


def test_kept_features_give_the_gradients_of_features_made_anew(base, rows, encoder):
    torch.manual_seed(0)
    model = adapter.wrap(base, Method(r=4), name="base").train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)

    def gradients(vision):
        model.zero_grad()
        score(model, collator_of(base, rows, encoder, vision=vision).batch(alone(0, 1, 2, 3))).loss_sum.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    anew = gradients(None)
    tower = tower_of(base, encoder)
    names = sorted({sha256 for row in rows for sha256 in row.images})
    kept = gradients(CachedVision(tower, dict(zip(names, tower.encode(names), strict=True))))
    assert all(torch.equal(kept[name], gradient) for name, gradient in anew.items())
    assert any(gradient.abs().max() > 0.01 for gradient in anew.values())


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_exactly_the_text_models_linear_layers_are_quantized(resolved, quantization):
    model = loading.load(resolved, quantization=quantization, dtype=torch.float32).model
    kinds = (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    quantized = {name for name, module in model.named_modules() if isinstance(module, kinds)}
    assert quantized == {name for name in linear if ".language_model." in name}


def test_lora_reaches_the_text_model_only_though_the_tower_has_the_same_names(base):
    tower = {name.rpartition(".")[2] for name, _ in base.model.model.visual.named_modules()}
    assert {"gate_proj", "up_proj", "down_proj"} <= tower & set(LORA_TARGETS)
    model = adapter.wrap(base, Method(), name="base")
    adapted = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(adapted) == 2 * 2 * len(LORA_TARGETS)
    assert all(".language_model." in name for name in adapted)
