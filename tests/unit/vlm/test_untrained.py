"""The published shapes: what they add up to, and how their processors cut."""

import pytest
from PIL import Image

from vlm import catalog, geometry, untrained
from vlm.cutting import Cutting
from vlm.tiny import byte_tokenizer

NAMES = [each.id for each in geometry.GEOMETRIES]
ROUNDED = {
    "256m": 256.3e6,
    "500m": 507.3e6,
    "2.2b": 2245.8e6,
}  # facts/training.md 1.6: linear layers and embeddings only


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_add_up_to_what_is_published(name):
    shape = geometry.find(name)
    count = sum(p.numel() for p in untrained.on_meta(shape).parameters())
    assert count == catalog.find(name).parameters
    assert count == pytest.approx(ROUNDED[name.split("-")[1]], rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_catalogue_says_the_same_of_tiles_and_context(name):
    shape, entry = geometry.find(name), catalog.find(name)
    assert (shape.tokens_per_tile, shape.text.context_tokens) == (entry.image_tokens_per_tile, entry.context_tokens)


def test_every_model_of_the_hub_in_the_catalogue_that_cuts_tiles_has_its_shape():
    published = [entry for entry in catalog.CATALOG if entry.hub_id is not None]
    assert [entry.id for entry in published if entry.image_tokens_per_tile is not None] == NAMES


@pytest.mark.parametrize(
    ("name", "longest_edge_px", "image_tokens"),
    [
        ("smolvlm-256m", 2048, 1088),
        ("smolvlm-2.2b", 1536, 1377),
        ("smolvlm2-500m", 2048, 1088),
        ("smolvlm2-2.2b", 1536, 1377),
    ],
)
def test_a_picture_of_2048_pixels_becomes_seventeen_tiles(name, longest_edge_px, image_tokens):
    shape = geometry.find(name)
    processor = untrained.make_processor(shape, byte_tokenizer(shape.text.context_tokens))
    out = processor(text=["<image>"], images=[[Image.new("RGB", (2048, 2048), "grey")]], add_special_tokens=False)
    side = shape.vision.side_px
    assert [tile.shape for tile in out["pixel_values"][0]] == [(3, side, side)] * 17
    assert out["input_ids"][0].count(processor.tokenizer.get_vocab()["<image>"]) == image_tokens
    assert processor.image_processor.size["longest_edge"] == longest_edge_px
    blank_line = 2  # tokens, one for each byte
    assert Cutting.of(processor) == Cutting(**{**_fields(shape.cutting), "blank_line_tokens": blank_line})


def _fields(cutting):
    return {name: getattr(cutting, name) for name in cutting.__dataclass_fields__}
