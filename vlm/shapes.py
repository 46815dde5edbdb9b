"""The shape of any tiled model, read from its `config.json`. Torch-free."""

from collections.abc import Mapping
from typing import Any

from vlm.geometry import Geometry, TextShape, VisionShape
from vlm.precision import Precision

_TILED = frozenset({"idefics3", "smolvlm"})


def geometry_of(config: Mapping[str, Any], *, name: str, published: Precision) -> Geometry | None:
    """Return the shape that a configuration says; None where the model is of another family.

    Args:
        config: `config.json`, with every field that transformers fills in (`PretrainedConfig.to_dict`).
        name: What the model is called.
        published: How its numbers lie in its files; a configuration in memory says how they were loaded.
    """
    if config.get("model_type") not in _TILED:
        return None
    text, vision = config["text_config"], config["vision_config"]
    return Geometry(
        id=name,
        text=TextShape(
            hidden=text["hidden_size"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            intermediate=text["intermediate_size"],
            layers=text["num_hidden_layers"],
            vocabulary=text["vocab_size"],
            context_tokens=text["max_position_embeddings"],
            rope_theta=0.0,
        ),
        vision=VisionShape(
            hidden=vision["hidden_size"],
            heads=vision["num_attention_heads"],
            intermediate=vision["intermediate_size"],
            layers=vision["num_hidden_layers"],
            side_px=vision["image_size"],
            patch_px=vision["patch_size"],
        ),
        pixel_shuffle=config["scale_factor"],
        longest_edge_px=0,
        is_head_tied=config.get("tie_word_embeddings", False),
        precision=published,
    )
