"""The shape that a configuration says is the published one."""

from dataclasses import replace

import pytest

from vlm import untrained
from vlm.geometry import GEOMETRIES
from vlm.shapes import geometry_of


@pytest.mark.parametrize("published", GEOMETRIES, ids=lambda each: each.id)
def test_a_published_configuration_says_the_published_shape(published):
    config = untrained.on_meta(published).config.to_dict()
    found = geometry_of(config, name=published.id, published="bf16")
    text = replace(published.text, rope_theta=0.0)
    assert found == replace(published, text=text, longest_edge_px=0)


def test_a_model_of_another_kind_has_no_such_shape():
    assert geometry_of({"model_type": "qwen2_5_vl"}, name="x", published="bf16") is None
