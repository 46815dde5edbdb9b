"""Base models of random weights that only tests need."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoProcessor
from transformers.models.smolvlm import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor


def make_smolvlm2(tiny_folder: Path, folder: Path) -> Path:
    """Write `tiny` anew as a model of the SmolVLM class: SmolVLM2 keeps Idefics3's modules and has a processor of its own."""
    config = json.loads((tiny_folder / "config.json").read_text())
    for key in ("architectures", "model_type", "transformers_version"):
        config.pop(key, None)
    for part in ("vision_config",):
        config[part].pop("model_type", None)
    model = SmolVLMForConditionalGeneration(SmolVLMConfig(**config))
    model.load_state_dict(load_file(tiny_folder / "model.safetensors"), strict=False)
    model.tie_weights()
    model.to(torch.float32).save_pretrained(folder)
    made = AutoProcessor.from_pretrained(tiny_folder)
    size = dict(made.image_processor.size)
    cutter = SmolVLMImageProcessorPil(size=size, max_image_size=size, do_image_splitting=False)
    SmolVLMProcessor(
        image_processor=cutter,
        tokenizer=made.tokenizer,
        video_processor=SmolVLMVideoProcessor(size=size, max_image_size=size, num_frames=1, fps=1),
        image_seq_len=made.image_seq_len,
        chat_template=made.chat_template,
    ).save_pretrained(folder)
    return folder


def make_variant(
    tiny_folder: Path, folder: Path, *, special: Sequence[str] = (), chat_template: str | None = None
) -> Path:
    """Write `tiny` anew, without its weights, with special tokens of its own or another chat template."""
    processor = AutoProcessor.from_pretrained(tiny_folder)
    processor.tokenizer.add_tokens(list(special), special_tokens=True)
    if chat_template is not None:
        processor.chat_template = chat_template
    processor.save_pretrained(folder)
    shutil.copy(tiny_folder / "config.json", folder)
    return folder
