"""`tiny`: an Idefics3 of random weights, made in about a second without a network, for tests of a whole job."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

from vlm.building import build_once
from vlm.chat import add_image_tokens, make_processor

VERSION = 1
SEED = 20
CONTEXT_TOKENS = 1024
IMAGE_SIDE_PX = 32
_PATCH_PX, _PIXEL_SHUFFLE = 8, 2
_IMAGE_TOKENS = (IMAGE_SIDE_PX // _PATCH_PX // _PIXEL_SHUFFLE) ** 2
_CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def folder(models_dir: Path) -> Path:
    """Return where the model of `tiny` lies, or will."""
    return models_dir / f"tiny-{VERSION}"


def ensure(models_dir: Path) -> Path:
    """Return the model folder of `tiny`, building it on the first call."""
    return build_once(folder(models_dir), _make)


def byte_tokenizer(context_tokens: int) -> PreTrainedTokenizerFast:
    """Make a byte-level tokenizer with the chat and image tokens: every text round-trips, one token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*_CHAT_TOKENS, *alphabet))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner,
        unk_token="<|endoftext|>",  # noqa: S106 - a token of text
        bos_token="<|im_start|>",  # noqa: S106
        pad_token="<|im_end|>",  # noqa: S106
        model_max_length=context_tokens,
    )
    add_image_tokens(tokenizer)
    return tokenizer


def _make(folder: Path) -> None:
    tokenizer = byte_tokenizer(CONTEXT_TOKENS)
    processor = make_processor(tokenizer, side_px=IMAGE_SIDE_PX, image_tokens=_IMAGE_TOKENS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = Idefics3ForConditionalGeneration(_config(tokenizer))
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _config(tokenizer: PreTrainedTokenizerFast) -> Idefics3Config:
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = Idefics3VisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIDE_PX,
        patch_size=_PATCH_PX,
    )
    return Idefics3Config(
        text_config=text,
        vision_config=vision,
        scale_factor=_PIXEL_SHUFFLE,
        image_token_id=tokenizer.get_vocab()["<image>"],
        tie_word_embeddings=True,
    )
