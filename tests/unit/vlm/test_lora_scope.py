import itertools

import pytest

from vlm.idefics3 import IDEFICS3
from vlm.lora_scope import LoraNames, asked_scope, published_scope

TEXT = "model.text_model.layers.0.self_attn.q_proj"
VISION = "model.vision_model.encoder.layers.0.self_attn.q_proj"
CONNECTOR = "model.connector.modality_projection.proj"
NAMES = IDEFICS3.lora
PARTS = list(itertools.product((False, True), repeat=2))


def scope(targets=("q_proj",), *, connector=False, vision=False, left_out=()):
    return asked_scope(NAMES, targets, connector=connector, vision=vision, left_out=left_out)


@pytest.mark.parametrize(("connector", "vision"), PARTS)
def test_connector_and_vision_tower_are_reached_when_asked_and_never_otherwise(connector, vision):
    made = scope(connector=connector, vision=vision)
    assert made.reaches(TEXT)
    assert made.reaches(VISION) is vision
    assert made.reaches(CONNECTOR) is connector
    assert not made.reaches("lm_head")


def test_without_either_the_pattern_is_the_one_that_adapters_were_always_published_with():
    assert scope().exclude_modules == ".*(vision_model|connector).*"


def test_the_vision_tower_is_adapted_at_the_same_kinds_of_layers_as_the_text_model():
    assert scope(("o_proj", "gate_proj", "down_proj"), vision=True).targets == {
        "o_proj",
        "gate_proj",
        "down_proj",
        "out_proj",
        "fc2",
    }


def test_a_part_of_the_text_model_is_left_as_it_is():
    made = scope(left_out=("layers.0",))
    assert not made.reaches(TEXT)
    assert made.reaches(TEXT.replace("layers.0", "layers.1"))
    assert made.reaches(TEXT.replace("layers.0", "layers.01")), "whole components only"


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        (TEXT, True),
        (VISION, False),
        (CONNECTOR, False),
        ("lm_head", False),
        ("text_model", False),
        ("model.text_model_of_another.q_proj", False),
    ],
)
def test_the_text_model_is_inside_and_what_only_sounds_like_it_is_not(name, inside):
    assert scope().is_inside(name) is inside


@pytest.mark.parametrize("left_out", [(), ("layers.0",), ("layers.0.mlp", "layers.1")])
@pytest.mark.parametrize(("connector", "vision"), PARTS)
def test_a_published_configuration_gives_the_scope_back(connector, vision, left_out):
    made = scope(connector=connector, vision=vision, left_out=left_out)
    assert published_scope(NAMES, made.targets, made.exclude_modules) == made


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        ".*",
        "(a+)+$",
        ".*(vision_model).*|",
        ".*(vision_model|connector).*|(a+)+$",
        r".*(vision_model|connector).*|.*\.((a+)+)(\..*)?",
        r".*(vision_model|connector).*|.*\.(mlp.*)(\..*)?",
        r"(a+)+|.*(vision_model|connector).*|.*\.(mlp)(\..*)?",
    ],
)
def test_a_pattern_that_is_not_ours_is_no_scope(pattern):
    assert published_scope(NAMES, ["q_proj"], pattern) is None


def test_a_connector_that_is_a_part_of_the_vision_tower_is_kept_from_lora_with_it():
    names = LoraNames(
        text="language_model",
        vision="visual",
        connector=None,
        vision_targets=(("q_proj", "qkv"), ("k_proj", "qkv")),
        connector_targets=(),
    )
    frozen, trained = (
        asked_scope(names, ("q_proj", "k_proj"), connector=False, vision=vision, left_out=())
        for vision in (False, True)
    )
    assert frozen.exclude_modules == ".*(visual).*"
    assert (trained.exclude_modules, trained.targets) == (None, {"q_proj", "k_proj", "qkv"})
    assert published_scope(names, trained.targets, None) == trained
    assert trained.is_inside("model.visual.blocks.0.attn.qkv")
