"""Models of the published shapes with random weights: what a run costs depends on shapes, not on what was learned.

They lie here, beside `tiny`, because tests, benchmarks and plans of memory build them, and none of those may import another.
The family's class, the widths, the processor's settings and the untied head are the published ones; the depth can be cut, and
the tokenizer is ours (one token a byte; every id lies within the published vocabulary).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

from vlm.chat import CHAT_TEMPLATE
from vlm.geometry import Geometry
from vlm.idefics3 import IDEFICS3
from vlm.smolvlm import SMOLVLM
from vlm.tiny import byte_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How many layers to keep of each tower."""

    vision: int
    text: int


@dataclass(frozen=True, slots=True)
class _Classes:
    config: Any
    vision_config: Any
    model: Any


_CLASSES = {
    IDEFICS3.name: _Classes(Idefics3Config, Idefics3VisionConfig, Idefics3ForConditionalGeneration),
    SMOLVLM.name: _Classes(SmolVLMConfig, SmolVLMVisionConfig, SmolVLMForConditionalGeneration),
}


def write(folder: Path, geometry: Geometry, *, depth: Depth, seed: int = 0) -> None:
    """Write a complete model folder: weights in the published precision, configuration, processor and tokenizer.

    Args:
        folder: An empty folder; `vlm.building.build_once` gives one.
        geometry: The published shape.
        depth: Layers of each tower; the widths stay.
        seed: Of the weights; the caller's random numbers are left alone.
    """
    tokenizer = byte_tokenizer(geometry.text.context_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _new(shallow(geometry, depth), tokenizer)
    model.generation_config = GenerationConfig(**_special(tokenizer))  # type: ignore[no-untyped-call]
    model.bfloat16().save_pretrained(folder)
    make_processor(geometry, tokenizer).save_pretrained(folder)


def on_meta(geometry: Geometry) -> PreTrainedModel:
    """Return the whole model without memory for its weights, to count and to plan with."""
    with torch.device("meta"):
        return _new(geometry, byte_tokenizer(geometry.text.context_tokens))


def shallow(geometry: Geometry, depth: Depth) -> Geometry:
    """Return the shape with fewer layers."""
    vision, text = geometry.vision, geometry.text
    return replace(geometry, vision=replace(vision, layers=depth.vision), text=replace(text, layers=depth.text))


def make_processor(geometry: Geometry, tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    """Return a processor with the published settings: splitting on, the longest edge four tiles."""
    whole, tile = {"longest_edge": geometry.longest_edge_px}, {"longest_edge": geometry.vision.side_px}
    shared: dict[str, Any] = {
        "tokenizer": tokenizer,
        "image_seq_len": geometry.tokens_per_tile,
        "chat_template": CHAT_TEMPLATE,
    }
    if geometry.family == IDEFICS3.name:
        cutter = Idefics3ImageProcessorPil(do_image_splitting=True, size=whole, max_image_size=tile)
        return Idefics3Processor(image_processor=cutter, **shared)
    video: dict[str, Any] = {"size": dict(tile), "max_image_size": dict(tile)}
    video["video_sampling"] = {"max_frames": 64, "fps": 1, "video_size": dict(tile)}
    return SmolVLMProcessor(
        image_processor=SmolVLMImageProcessorPil(do_image_splitting=True, size=whole, max_image_size=tile),
        video_processor=SmolVLMVideoProcessor(**video),
        **shared,
    )


def _new(geometry: Geometry, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    classes, text, vision = _CLASSES[geometry.family], geometry.text, geometry.vision
    config = classes.config(
        text_config=LlamaConfig(
            vocab_size=text.vocabulary,
            hidden_size=text.hidden,
            intermediate_size=text.intermediate,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            num_key_value_heads=text.kv_heads,
            max_position_embeddings=text.context_tokens,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": text.rope_theta},
            tie_word_embeddings=geometry.is_head_tied,
            **_special(tokenizer),
        ),
        vision_config=classes.vision_config(
            hidden_size=vision.hidden,
            intermediate_size=vision.intermediate,
            num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads,
            image_size=vision.side_px,
            patch_size=vision.patch_px,
        ),
        scale_factor=geometry.pixel_shuffle,
        image_token_id=tokenizer.get_vocab()["<image>"],
        tie_word_embeddings=geometry.is_head_tied,
    )
    model = classes.model(config)
    assert isinstance(model, PreTrainedModel)
    return model


def _special(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
