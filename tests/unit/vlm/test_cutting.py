"""The arithmetic of tiles and tokens against what the processors of both families really make."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor

from tests.models import make_smolvlm2
from vlm.cutting import GRID, Cutting
from vlm.digest import processor_digest
from vlm.idefics3 import IDEFICS3
from vlm.image_options import ImageOptions
from vlm.smolvlm import SMOLVLM

SIZES = [
    (1, 1),
    (10, 10),
    (31, 33),
    (100, 52),
    (52, 100),
    (64, 64),
    (65, 33),
    (7, 300),
    (300, 7),
    (300, 200),
    (4500, 40),
]
EDGES = [32, 50, 64, 96, 100, 190, 192]


FAMILIES = {"idefics3": IDEFICS3, "smolvlm": SMOLVLM}


@pytest.fixture(scope="module")
def folders(tiny_folder, tmp_path_factory):
    return {"idefics3": tiny_folder, "smolvlm": make_smolvlm2(tiny_folder, tmp_path_factory.mktemp("smolvlm2"))}


@pytest.fixture(params=["idefics3", "smolvlm"])
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(params=["torchvision", "pil"])
def processor(request, family, folders):
    """Return a processor of a family with each of its two image processors: by arrays of torch, by PIL."""
    processor = AutoProcessor.from_pretrained(folders[family.name])
    processor.image_processor = AutoImageProcessor.from_pretrained(folders[family.name], backend=request.param)
    assert processor.image_processor.backend == request.param
    return processor


def picture(height, width):
    """Return a picture on which every pixel differs from its neighbours."""
    ramp = torch.arange(height * width * 3, dtype=torch.int64) * 37 % 251
    return Image.fromarray(ramp.to(torch.uint8).reshape(height, width, 3).numpy(), "RGB")


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("edge", EDGES)
def test_tiles_and_tokens_are_those_of_the_processor(family, processor, edge, split):
    family.set_image_options(processor, ImageOptions(longest_edge=edge, split=split))
    cutting = Cutting.of(processor)
    for height, width in SIZES:
        out = processor(text=["<image>"], images=[[Image.new("RGB", (width, height))]], add_special_tokens=False)
        counted = (cutting.num_tiles(height, width), cutting.num_tokens(height, width))
        assert counted == (len(out["pixel_values"][0]), len(out["input_ids"][0])), (height, width)
        written = processor.tokenizer(family.image_text(processor, height, width), add_special_tokens=False)
        assert written["input_ids"] == out["input_ids"][0]


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("edge", EDGES)
def test_without_upscaling_what_is_counted_what_is_written_and_what_is_cut_agree(family, processor, edge, split):
    """Tokens are made from an image's sides and pixels from the image: one tile more would shift all features."""
    family.set_image_options(processor, ImageOptions(longest_edge=edge, split=split, upscale=False))
    rule = family.image_rule(processor)
    for height, width in SIZES:
        pixels = family.cut(processor, picture(height, width))
        ids = processor.tokenizer(family.image_text(processor, height, width), add_special_tokens=False)["input_ids"]
        counted = (rule.num_tiles(height, width), rule.num_tokens(height, width))
        assert counted == (len(pixels["pixel_values"]), len(ids)), (height, width)
        features = ids.count(family.image_token_id(processor.tokenizer))
        assert features == counted[0] * processor.image_seq_len
        assert pixels["pixel_values"].shape[-2:] == (32, 32)


@pytest.mark.parametrize("split", [True, False])
def test_unless_asked_pixels_are_those_that_the_whole_processor_makes(family, processor, split):
    family.set_image_options(processor, ImageOptions(longest_edge=96, split=split))
    for height, width in SIZES:
        image = picture(height, width)
        whole = processor(text=["<image>"], images=[[image]], add_special_tokens=False, return_tensors="pt")
        pixels = family.cut(processor, image)
        assert torch.equal(pixels["pixel_values"], whole["pixel_values"][0])
        assert torch.equal(pixels["pixel_attention_mask"], whole["pixel_attention_mask"][0])


def test_without_upscaling_large_images_are_cut_as_published_and_no_image_takes_more_tiles(family, processor):
    family.set_image_options(processor, ImageOptions(longest_edge=96, split=True))
    small = family.with_image_options(processor, ImageOptions(upscale=False))
    for height, width in SIZES:
        published, own = (family.cut(each, picture(height, width))["pixel_values"] for each in (processor, small))
        if max(height, width) >= 96:
            assert torch.equal(own, published)
        else:
            assert len(own) <= len(published)


def test_without_upscaling_a_tile_of_the_grid_shows_its_part_of_the_image(family, processor):
    """50 x 30 pixels fill 2 x 1 tiles of 32: the left one is the left half, scaled to it and to nothing else."""
    family.set_image_options(processor, ImageOptions(longest_edge=128, split=True, upscale=False))
    image = Image.new("RGB", (50, 30), "black")
    image.paste((255, 255, 255), (25, 0, 50, 30))
    left, right, whole = family.cut(processor, image)["pixel_values"]
    assert left[:, :, :28].max() == -1
    assert right[:, :, 4:].min() == 1
    assert whole[:, :, :12].max() == -1


def test_the_setting_is_kept_beside_an_adapter_and_changes_the_digest(family, processor, tmp_path):
    before = processor_digest(processor)
    family.set_image_options(processor, ImageOptions(longest_edge=128, split=True, upscale=False))
    processor.save_pretrained(tmp_path)
    found = AutoProcessor.from_pretrained(tmp_path)
    assert Cutting.of(found) == Cutting.of(processor)
    assert not Cutting.of(found).is_upscaled
    assert family.image_text(found, 30, 50).count("<row_") == 2
    assert len(family.cut(found, picture(30, 50))["pixel_values"]) == 3
    assert processor_digest(processor) != before
    assert processor_digest(found) == processor_digest(processor)


def test_asking_for_what_the_base_does_anyway_changes_no_digest(family, processor):
    before = processor_digest(processor)
    family.set_image_options(processor, ImageOptions(upscale=True))
    assert processor_digest(processor) == before
    family.set_image_options(processor, ImageOptions(upscale=False))
    family.set_image_options(processor, ImageOptions())
    assert not Cutting.of(processor).is_upscaled, "unset keeps what is there"
    family.set_image_options(processor, ImageOptions(upscale=True))
    assert processor_digest(processor) == before


def test_options_on_a_copy_leave_the_processor_as_it_is(family, processor):
    before = processor_digest(processor)
    family.with_image_options(processor, ImageOptions(longest_edge=96, split=True, upscale=False))
    assert processor_digest(processor) == before


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [
        (100, 100, (0, 0)),
        (512, 512, (0, 0)),
        (400, 600, (1, 2)),
        (600, 400, (2, 1)),
        (513, 513, (2, 2)),
        (1080, 1920, (3, 4)),
        (3000, 4000, (3, 4)),
        (3000, 3000, (4, 4)),
    ],
)
def test_without_upscaling_smolvlm_takes_the_tiles_that_a_picture_needs(height, width, grid):
    smolvlm = Cutting(longest_edge_px=2048, tile_px=512, is_split=True, tokens_per_tile=64, is_upscaled=False)
    assert smolvlm.grid(height, width) == grid


@pytest.mark.parametrize("edge", [600, 1024, 1500, 2048])
def test_without_upscaling_no_size_takes_more_tiles_and_a_tile_only_for_its_own_pixels(edge):
    published = Cutting(longest_edge_px=edge, tile_px=512, is_split=True, tokens_per_tile=64)
    own = replace(published, is_upscaled=False)
    for height in range(1, 3000, 97):
        for width in range(1, 3000, 89):
            rows, columns = own.grid(height, width)
            assert own.num_tiles(height, width) <= published.num_tiles(height, width), (height, width)
            assert (rows - 1) * 512 < height
            assert (columns - 1) * 512 < width


def test_a_grid_beyond_the_tokens_of_places_is_known_from_the_settings():
    cutting = Cutting(longest_edge_px=GRID * 32 + 1, tile_px=32, is_split=True, tokens_per_tile=4)
    assert not cutting.is_within_grid
    assert cutting.max_longest_edge_px == GRID * 32
    assert max(cutting.grid(100, 100)) == GRID + 1


def test_smolvlms_default_makes_seventeen_tiles_of_a_small_picture():
    """Facts: SmolVLM scales up to 2,048 pixels first, so 100 x 100 pixels become 4 x 4 tiles and the whole."""
    smolvlm = Cutting(longest_edge_px=2048, tile_px=512, is_split=True, tokens_per_tile=64)
    assert smolvlm.num_tiles(100, 100) == 17
    assert smolvlm.num_tokens(100, 100) == 17 * 64 + 16 * 2 + 4 + 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {},
            "lower image.longest_edge, set image.upscale to false where pictures are small, or set image.split to false",
        ),
        ({"is_upscaled": False}, "lower image.longest_edge or set image.split to false"),
        ({"is_split": False}, "show fewer images"),
    ],
)
def test_only_what_is_not_set_already_is_told_to_make_fewer_tokens(settings, words):
    smolvlm = {"longest_edge_px": 2048, "tile_px": 512, "is_split": True, "tokens_per_tile": 64}
    assert Cutting(**(smolvlm | settings)).fewer_tokens == words
