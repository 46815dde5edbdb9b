"""The arithmetic of tiles and tokens against what the processors of both families really make."""

import pytest
from PIL import Image
from transformers import AutoProcessor

from tests.models import make_smolvlm2
from vlm.cutting import GRID, Cutting

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


@pytest.fixture(scope="module", params=["idefics3", "smolvlm"])
def processor(request, tiny_folder, tmp_path_factory):
    if request.param == "idefics3":
        return AutoProcessor.from_pretrained(tiny_folder)
    return AutoProcessor.from_pretrained(make_smolvlm2(tiny_folder, tmp_path_factory.mktemp("smolvlm2")))


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("edge", EDGES)
def test_tiles_and_tokens_are_those_of_the_processor(processor, edge, split):
    cutter = processor.image_processor
    cutter.size = type(cutter.size)(longest_edge=edge)
    cutter.do_image_splitting = split
    cutting = Cutting.of(processor)
    assert cutting.is_within_grid
    for height, width in SIZES:
        out = processor(text=["<image>"], images=[[Image.new("RGB", (width, height))]], add_special_tokens=False)
        counted = (cutting.num_tiles(height, width), cutting.num_tokens(height, width))
        assert counted == (len(out["pixel_values"][0]), len(out["input_ids"][0])), (height, width)


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
