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


@pytest.mark.parametrize("damage", ["gone", "another family", "no JSON", "half", "no processor"])
def test_what_cannot_be_read_has_no_blueprint(base, tmp_path, damage):
    folder = tmp_path / "base"
    shutil.copytree(base("tiny")[0], folder)
    config = json.loads((folder / "config.json").read_text())
    if damage == "gone":
        shutil.rmtree(folder)
    elif damage == "no processor":
        (folder / "processor_config.json").unlink()
    else:
        changed = {"another family": config | {"model_type": "llava"}, "half": config | {"text_config": {}}}
        (folder / "config.json").write_text("{" if damage == "no JSON" else json.dumps(changed[damage]))
    assert blueprint.find(str(folder)) is None


def test_of_a_base_that_is_not_here_nothing_is_known():
    assert blueprint.find("nobody/nothing") is None
    assert blueprint.find("qwen2.5-vl-3b") is None
