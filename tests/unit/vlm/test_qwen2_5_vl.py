"""Qwen2.5-VL: its arithmetic against its processor and its model, and what may be asked of it."""

import pickle

import pytest
import torch
from PIL import Image, ImageChops

from core.errors import FailureCode
from tests.qwen import MAX_PIXELS, make_qwen2_5_vl
from vlm import loading
from vlm.image_options import ImageOptions, OptionRefused
from vlm.lora_scope import asked_scope
from vlm.measure import ImageRefused
from vlm.qwen2_5_vl import QWEN2_5_VL, Patches

SIZES = [(1, 1), (10, 10), (31, 33), (40, 30), (100, 52), (52, 100), (160, 160), (7, 300), (300, 7), (500, 400)]


@pytest.fixture(scope="module")
def resolved(tmp_path_factory):
    folder = make_qwen2_5_vl(tmp_path_factory.mktemp("qwen"))
    return loading.resolve(str(folder), models_dir=folder)


@pytest.fixture
def processor(resolved):
    return loading.load_processor(resolved).processor


@pytest.mark.parametrize("edge", [None, 32, 50, 96, 300])
def test_tokens_are_those_of_the_processor(processor, edge):
    QWEN2_5_VL.set_image_options(processor, ImageOptions(longest_edge=edge))
    rule = QWEN2_5_VL.image_rule(processor)
    for height, width in SIZES:
        image = Image.new("RGB", (width, height))
        out = processor(text=["<|image_pad|>"], images=[[image]])
        counted = rule.num_tokens(height, width)
        assert counted == len(out["input_ids"][0]), (height, width)
        assert processor.tokenizer.decode(out["input_ids"][0]) == QWEN2_5_VL.image_text(processor, height, width)


def test_positions_are_those_of_the_model(resolved, processor):
    base = loading.load(resolved, quantization="none", dtype=torch.float32)
    sides = [(40, 30), (100, 52), (52, 100)]
    images = [Image.new("RGB", (width, height)) for height, width in sides]
    text = "a<|image_pad|>b<|image_pad|><|vision_end|><|image_pad|>"  # behind each other, apart, and at the end
    out = processor(text=[text], images=images, return_tensors="pt")
    theirs, _ = base.model.model.get_rope_index(
        out["input_ids"], mm_token_type_ids=out["mm_token_type_ids"], image_grid_thw=out["image_grid_thw"]
    )
    ours = QWEN2_5_VL.positions(processor, out["input_ids"][0].tolist(), sides)
    assert ours[0].tolist() == list(range(out["input_ids"].shape[1]))
    assert ours[1:].tolist() == theirs[:, 0].tolist()
    assert ours[1:].max() < len(ours[0]) - 1  # an image takes fewer positions than tokens


def test_positions_without_an_image_count_tokens(processor):
    assert QWEN2_5_VL.positions(processor, [7, 8, 9], []).tolist() == [[0, 1, 2]] * 4


def test_the_picture_is_what_the_vision_tower_sees_with_its_patches_in_place(processor):
    image = Image.new("RGB", (64, 96), "white")
    image.paste("red", (0, 0, 16, 24))
    image.paste("blue", (40, 72, 64, 96))
    (seen,) = QWEN2_5_VL.pictures(processor, QWEN2_5_VL.cut(processor, image))
    assert seen.size == (64, 96)
    assert max(high for _, high in ImageChops.difference(seen, image).getextrema()) <= 1  # a rounding


def test_the_longest_edge_bounds_the_pixels_of_a_picture_and_enlarges_none(processor):
    assert QWEN2_5_VL.image_settings(processor)["longest_edge"] ** 2 == MAX_PIXELS
    before = QWEN2_5_VL.image_rule(processor).num_tokens(40, 40)
    QWEN2_5_VL.set_image_options(processor, ImageOptions(longest_edge=96))
    rule = QWEN2_5_VL.image_rule(processor)
    assert QWEN2_5_VL.image_settings(processor)["longest_edge"] == 96
    assert rule.num_tokens(500, 500) == (96 // 16) ** 2
    assert rule.num_tokens(40, 40) == before


def test_unset_image_options_keep_what_the_base_came_with(processor):
    before = Patches.of(processor)
    QWEN2_5_VL.set_image_options(processor, ImageOptions())
    QWEN2_5_VL.set_image_options(processor, ImageOptions(split=False, upscale=False))  # as it is anyway
    assert Patches.of(processor) == before


def test_the_image_options_are_saved_with_the_processor(processor, tmp_path):
    QWEN2_5_VL.set_image_options(processor, ImageOptions(longest_edge=96))
    processor.save_pretrained(tmp_path)
    assert Patches.of(type(processor).from_pretrained(tmp_path)) == Patches.of(processor)


@pytest.mark.parametrize("option", ["split", "upscale"])
def test_what_means_nothing_here_is_refused_by_the_name_of_its_option(processor, option):
    with pytest.raises(OptionRefused, match=rf"image\.{option} is True") as refused:
        QWEN2_5_VL.set_image_options(processor, ImageOptions(longest_edge=96, **{option: True}))
    assert refused.value.code is FailureCode.BASE_MODEL
    assert refused.value.option == option
    assert f"Leave image.{option} out" in refused.value.remedy


def test_a_refused_option_crosses_process_borders_whole():
    refused = OptionRefused("upscale", "no", remedy="leave it out")
    again = pickle.loads(pickle.dumps(refused))
    assert (type(again), again.args, vars(again)) == (OptionRefused, refused.args, vars(refused))


def test_an_edge_below_what_every_picture_is_scaled_up_to_is_refused_with_the_least_that_works(processor):
    cutter = processor.image_processor
    cutter.size = type(cutter.size)(shortest_edge=56 * 56 + 1, longest_edge=MAX_PIXELS)
    with pytest.raises(OptionRefused, match=r"image\.longest_edge is 56") as refused:
        QWEN2_5_VL.set_image_options(processor, ImageOptions(longest_edge=56))
    assert "longest_edge to 57 or more" in refused.value.remedy
    QWEN2_5_VL.set_image_options(processor, ImageOptions(longest_edge=57))


def test_a_sliver_is_refused_with_its_sides(processor):
    with pytest.raises(ImageRefused, match="an image is 1 x 201 pixels"):
        QWEN2_5_VL.image_rule(processor).num_tokens(201, 1)


def test_every_token_around_an_image_is_masked_and_the_end_of_a_turn_is_not(processor):
    masked = QWEN2_5_VL.masked_token_ids(processor.tokenizer)
    names = set(processor.tokenizer.convert_ids_to_tokens(sorted(masked)))
    assert names == {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"}
    assert QWEN2_5_VL.end_token_id(processor.tokenizer) == processor.tokenizer.eos_token_id


@pytest.mark.parametrize("vision", [False, True])
def test_lora_reaches_the_text_model_and_the_tower_only_when_asked(resolved, vision):
    """The tower's MLP has the names of the text model's; its attention is fused, and has no counterpart there."""
    model = loading.load(resolved, quantization="none", dtype=torch.float32).model
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    scope = asked_scope(QWEN2_5_VL.lora, targets, connector=False, vision=vision, left_out=())
    reached = [name for name in linear if scope.reaches(name)]
    assert sum(".language_model." in name for name in reached) == 2 * 7
    assert sum(".visual.blocks." in name for name in reached) == len(reached) - 2 * 7 == vision * 2 * 3
    assert all(scope.is_inside(name) for name in reached)


def test_the_layers_of_the_text_model_are_known_by_name(resolved):
    model = loading.load(resolved, quantization="none", dtype=torch.float32).model
    names = [name for name, _ in model.named_modules() if QWEN2_5_VL.is_text_layer(name)]
    assert names == [f"model.language_model.layers.{index}" for index in range(2)]
    assert all(map(QWEN2_5_VL.is_text_module, names))
    assert not QWEN2_5_VL.is_text_layer("model.visual.blocks.0")
    assert QWEN2_5_VL.is_unsplit("model.visual")
