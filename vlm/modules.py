"""The modules of a published model that hold weights: full names and shapes. Torch-free, so that a plan can count them.

A test holds the list against the model itself, built without memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vlm.geometry import Geometry, TextShape, VisionShape
from vlm.lora_scope import LoraNames

LORA_NAMES = LoraNames(
    text="text_model",
    vision="vision_model",
    connector="connector",
    vision_targets=(
        ("q_proj", "q_proj"),
        ("k_proj", "k_proj"),
        ("v_proj", "v_proj"),
        ("o_proj", "out_proj"),
        ("up_proj", "fc1"),
        ("down_proj", "fc2"),
    ),
    connector_targets=("proj",),
)

Part = Literal["text", "embedding", "head", "vision", "connector"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One module with weights.

    Attributes:
        name: Its full name in the model.
        part: The part of the model that it lies in.
        rows: Outputs of a linear layer; entries of an embedding or a norm.
        columns: Inputs of a linear layer; the width of an embedding; 1 for a norm.
        has_bias: Whether there are as many biases as rows.
        is_linear: Whether quantization and LoRA may reach it.
    """

    name: str
    part: Part
    rows: int
    columns: int
    has_bias: bool = False
    is_linear: bool = False

    @property
    def num_weights(self) -> int:
        """Return the number of its weights, without biases."""
        return self.rows * self.columns

    @property
    def num_parameters(self) -> int:
        """Return the number of its parameters."""
        return self.num_weights + (self.rows if self.has_bias else 0)


def modules_of(geometry: Geometry) -> Iterator[Module]:
    """Yield every module with weights of a published model; a head that shares the embedding's weights is none."""
    yield from _vision(geometry.vision)
    shuffled = geometry.vision.hidden * geometry.pixel_shuffle**2
    connector = "model.connector.modality_projection.proj"
    yield _linear(connector, "connector", geometry.text.hidden, shuffled)
    yield from _text(geometry.text)
    if not geometry.is_head_tied:
        yield _linear("lm_head", "head", geometry.text.vocabulary, geometry.text.hidden)


def _text(shape: TextShape) -> Iterator[Module]:
    model, hidden = "model.text_model", shape.hidden
    keys = shape.kv_heads * (hidden // shape.heads)
    yield Module(name=f"{model}.embed_tokens", part="embedding", rows=shape.vocabulary, columns=hidden)
    for number in range(shape.layers):
        layer = f"{model}.layers.{number}"
        for name, rows, columns in (
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", keys, hidden),
            ("self_attn.v_proj", keys, hidden),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", shape.intermediate, hidden),
            ("mlp.up_proj", shape.intermediate, hidden),
            ("mlp.down_proj", hidden, shape.intermediate),
        ):
            yield _linear(f"{layer}.{name}", "text", rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield Module(name=f"{layer}.{name}", part="text", rows=hidden, columns=1)
    yield Module(name=f"{model}.norm", part="text", rows=hidden, columns=1)


def _vision(shape: VisionShape) -> Iterator[Module]:
    model, hidden = "model.vision_model", shape.hidden
    embeddings = f"{model}.embeddings"
    pixels = 3 * shape.patch_px**2  # of a patch, in three colours
    yield Module(name=f"{embeddings}.patch_embedding", part="vision", rows=hidden, columns=pixels, has_bias=True)
    yield Module(name=f"{embeddings}.position_embedding", part="vision", rows=shape.patches, columns=hidden)
    for number in range(shape.layers):
        layer = f"{model}.encoder.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield _linear(f"{layer}.self_attn.{name}", "vision", hidden, hidden, has_bias=True)
        yield _linear(f"{layer}.mlp.fc1", "vision", shape.intermediate, hidden, has_bias=True)
        yield _linear(f"{layer}.mlp.fc2", "vision", hidden, shape.intermediate, has_bias=True)
        for name in ("layer_norm1", "layer_norm2"):
            yield Module(name=f"{layer}.{name}", part="vision", rows=hidden, columns=1, has_bias=True)
    yield Module(name=f"{model}.post_layernorm", part="vision", rows=hidden, columns=1, has_bias=True)


def _linear(name: str, part: Part, rows: int, columns: int, *, has_bias: bool = False) -> Module:
    return Module(name=name, part=part, rows=rows, columns=columns, has_bias=has_bias, is_linear=True)
