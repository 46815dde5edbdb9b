"""A base as the API plans it, without torch, against the base itself."""

import json
import shutil

import pytest

from vlm import blueprint, loading
from vlm.cutting import Cutting
from vlm.image_options import ImageOptions
from vlm.shapes import geometry_of


def told(geometry):
    """Return what counts of a shape; names and what only a longer context needs do not."""
    text, vision = geometry.text, geometry.vision
    return (
        text.hidden, text.heads, text.kv_heads, text.intermediate, text.layers, text.vocabulary, text.context_tokens,
        vision, geometry.pixel_shuffle, geometry.is_head_tied, geometry.precision,
    )  # fmt: skip


@pytest.fixture
def base(models_dir):
    def base(name):
        resolved = loading.resolve(str(name), models_dir=models_dir)
        return resolved.source, loading.load_processor(resolved)

    return base


@pytest.mark.parametrize("name", ["tiny", "lensmith-demo"])
def test_our_own_bases_are_what_the_table_says(base, name):
    _, loaded = base(name)
    found = blueprint.find(name)
    truth = geometry_of(loaded.config.to_dict(), name=name, published=loaded.published)
    assert told(found.geometry) == told(truth)
    cutting = Cutting.of(loaded.processor)
    assert found.cutting.num_tokens(300, 200) == cutting.num_tokens(300, 200)
    assert found.cutting.grid(300, 200) == cutting.grid(300, 200)


def test_a_folder_is_read_from_its_files(base):
    source, loaded = base("tiny")
    found = blueprint.find(source)
    assert told(found.geometry) == told(geometry_of(loaded.config.to_dict(), name=source, published=loaded.published))
    assert found.cutting.tile_px == 32


@pytest.mark.parametrize(
    "options", [{"longest_edge": 64, "split": True}, {"split": True, "upscale": False}, {"split": False}, {}]
)
def test_image_options_cut_as_the_family_sets_them(base, options):
    _, loaded = base("tiny")
    options = ImageOptions(**options)
    processor = loaded.family.with_image_options(loaded.processor, options)
    ours, theirs = blueprint.find("tiny").cutting_with(options), Cutting.of(processor)
    for sides in ((20, 20), (100, 30), (64, 64), (700, 300)):
        assert ours.grid(*sides) == theirs.grid(*sides)


DAMAGE = {
    "another family": lambda config: config | {"model_type": "llava"},
    "half": lambda config: config | {"text_config": {}},
    "a list": lambda config: [config],
    "no patches": lambda config: config | {"vision_config": config["vision_config"] | {"patch_size": 0}},
    "no shuffle": lambda config: config | {"scale_factor": 0},
    "endless layers": lambda config: config | {"text_config": config["text_config"] | {"num_hidden_layers": 10**9}},
    "words": lambda config: config | {"text_config": config["text_config"] | {"hidden_size": "wide"}},
    "too large": lambda config: config | {"x": "x" * 2**20},
}


@pytest.mark.parametrize("damage", ["gone", "no JSON", "deep", "no processor", "a processor of no size", *DAMAGE])
def test_what_cannot_be_read_has_no_blueprint(base, tmp_path, damage):
    folder = tmp_path / "base"
    shutil.copytree(base("tiny")[0], folder)
    config, processor = folder / "config.json", folder / "processor_config.json"
    if damage == "gone":
        shutil.rmtree(folder)
    elif damage == "no processor":
        processor.unlink()
    elif damage == "a processor of no size":
        written = json.loads(processor.read_text())
        written["image_processor"]["max_image_size"]["longest_edge"] = 0
        processor.write_text(json.dumps(written))
    elif damage in DAMAGE:
        config.write_text(json.dumps(DAMAGE[damage](json.loads(config.read_text()))))
    else:
        config.write_text({"no JSON": "{", "deep": "[" * 100_000}[damage])
    assert blueprint.find(str(folder)) is None


def test_of_a_base_that_is_not_here_nothing_is_known():
    assert blueprint.find("nobody/nothing") is None
    assert blueprint.find("qwen2.5-vl-3b") is None
