"""What was kept of an image is found again only by a job whose tower makes the same of it."""

import dataclasses
from importlib import metadata

import pytest
import torch

from training import adapter
from training.features.key import feature_key
from training.spec import Method
from vlm.image_options import ImageOptions

HOW = {"precision": "fp32", "trains_connector": False}


def key_of(base, **how):
    return feature_key(base, **HOW | how)


def changed(base, other=None, **how):
    """Return which fields of the key differ when the base is another, or the way to use it."""
    before = key_of(base)
    after = key_of(other or base, **how)
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_the_key_names_all_that_a_tower_depends_on(load):
    assert key_of(load()).keys() == {
        *("format", "family", "revision", "processor", "dtype", "precision", "quantization", "stage", "device"),
        *("torch", "transformers", "pillow", "torchvision"),
    }


@pytest.mark.parametrize(("name", "value"), [("revision", "another"), ("quantization", "nf4")])
def test_another_base_has_another_key(load, name, value):
    base = load()
    assert changed(base, dataclasses.replace(base, **{name: value})) == {name}


def test_another_family_has_another_key(load):
    base = load()
    other = dataclasses.replace(base.family, name="another")
    assert changed(base, dataclasses.replace(base, family=other)) == {"family"}


@pytest.mark.parametrize("options", [{"longest_edge": 64}, {"split": True}, {"longest_edge": 64, "upscale": False}])
def test_another_way_to_cut_an_image_has_another_key(load, options):
    base, other = load(), load()
    other.family.set_image_options(other.processor, ImageOptions(**options))
    assert changed(base, other) == {"processor"}


def test_another_normalisation_of_pixels_has_another_key(load):
    base, other = load(), load()
    other.processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    assert changed(base, other) == {"processor"}


def test_a_base_in_another_type_has_another_key(load):
    assert changed(load(), load(dtype=torch.bfloat16)) == {"dtype"}


def test_another_device_has_another_key(load):
    other = load()
    other.model.to("meta")
    assert changed(load(), other) == {"device"}


@pytest.mark.parametrize(("how", "name"), [({"precision": "bf16"}, "precision"), ({"trains_connector": True}, "stage")])
def test_another_precision_or_stage_has_another_key(load, how, name):
    assert changed(load(), **how) == {name}


@pytest.mark.parametrize("library", ["torch", "transformers", "pillow", "torchvision"])
def test_another_version_of_what_makes_pixels_or_features_has_another_key(load, monkeypatch, library):
    base = load()
    before = key_of(base)
    version = metadata.version
    monkeypatch.setattr("training.features.key.version", lambda name: "0" if name == library else version(name))
    if library == "torch":
        monkeypatch.setattr(torch, "__version__", "0")
    assert key_of(base) == before | {library: "0"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_trained_beside_the_tower_changes_nothing(load, dtype):
    """The key is made when the base is wrapped, and LoRA's weights are in float32 whatever the base is in."""
    base = load(dtype=dtype)
    for asked in ({}, {"r": 4, "use_dora": True}, {"train_connector": True}):
        other = load(dtype=dtype)
        adapter.wrap(other, Method(type="lora", **asked), name="another name").train()
        assert changed(base, other) == set()
