"""The shape of any tiled model, read from its `config.json`. Torch-free."""

from collections.abc import Mapping
from typing import Any

from vlm.geometry import Geometry, TextShape, VisionShape
from vlm.precision import Precision

_PRECISIONS: dict[str, Precision] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_TILED = frozenset({"idefics3", "smolvlm"})


def geometry_of(config: Mapping[str, Any], *, name: str) -> Geometry | None:
    """Return the shape that a configuration says; None where the model is of another family.

    Args:
        config: `config.json`, with every field that transformers fills in (`PretrainedConfig.to_dict`).
        name: What the model is called.
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
        precision=_PRECISIONS.get(str(config.get("dtype") or config.get("torch_dtype")), "bf16"),
    )
