"""What differs between vision-language families: module names and tokens as data, images as a few methods.

A family is one file: data for this class, and how its images become tokens, pixels and features.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from vlm.lora_scope import LoraNames

Pixels = Mapping[str, torch.Tensor]  # one image as a family's vision tower takes it


class ImageRule(Protocol):
    """How large an image becomes, by its sides alone."""

    def num_tiles(self, height_px: int, width_px: int) -> int:
        """Return into how many tiles an image is cut; 1 where it is not."""
        ...

    def num_tokens(self, height_px: int, width_px: int) -> int:
        """Return how many tokens an image becomes, structural ones included."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Family(ABC):
    """One family of models that share their module names, prompt format and image tokens.

    Attributes:
        name: The family's name in the catalog.
        architectures: Values of `config.architectures` that belong to it.
        image_token: The token of the chat template that stands for an image.
        structural_tokens: The other tokens that are written around an image.
        end_token: What ends an answer.
        quantization_skip: Modules that stay unquantized. transformers matches from the start of the name, so
            `vision_model` alone would skip nothing, and giving any list drops the default `lm_head`.
        lora: What LoRA may reach, and what it must be kept from: a list of targets alone would also hit the vision
            tower's `q_proj`, `k_proj` and `v_proj`.
        text_layer: A pattern on the full module name of one layer of the text model.
        vision_tower: The full name of the module that looks at pixels.
        connector: The full name of the module that turns what it saw into features; None where it is in the tower.
        can_pack: Whether examples can lie behind each other in one row: positions that start anew divide them.
    """

    name: str
    architectures: tuple[str, ...]
    image_token: str
    structural_tokens: tuple[str, ...]
    end_token: str
    quantization_skip: tuple[str, ...]
    lora: LoraNames
    text_layer: str
    vision_tower: str
    connector: str | None
    can_pack: bool

    @abstractmethod
    def image_rule(self, processor: Any) -> ImageRule:
        """Return how large images become with the settings of this processor."""

    @abstractmethod
    def image_text(self, processor: Any, height_px: int, width_px: int) -> str:
        """Return what is written in place of `image_token` for an image of these sides."""

    @abstractmethod
    def cut(self, processor: Any, image: Image.Image) -> Pixels:
        """Return an image as the vision tower takes it."""

    @abstractmethod
    def join(self, rows: Sequence[Sequence[Pixels]]) -> dict[str, torch.Tensor]:
        """Return the pixels of a batch as arguments of the model; nothing when no row has an image."""

    @abstractmethod
    def look(self, model: Any, images: Sequence[Pixels]) -> list[torch.Tensor]:
        """Return what the vision tower makes of each image, before the connector."""

    @abstractmethod
    def connect(self, model: Any, seen: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the features of each image, (tokens, text width), from what `look` returned."""

    def masked_token_ids(self, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
        """Return the ids of image and structural tokens; none of them may carry a label."""
        names = (self.image_token, *self.structural_tokens)
        vocabulary = tokenizer.get_vocab()
        return frozenset(vocabulary[name] for name in names if name in vocabulary)

    def image_token_id(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Return the id of the token that an image's features replace."""
        return int(tokenizer.get_vocab()[self.image_token])

    def end_token_id(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Return the id of the token that ends an answer; generation stops at it."""
        return int(tokenizer.get_vocab()[self.end_token])

    def is_text_module(self, name: str) -> bool:
        """Tell whether a module or weight of this full name belongs to the text model."""
        return self.lora.text in name.split(".")

    def is_text_layer(self, name: str) -> bool:
        """Tell whether a module of this full name, wrapped by PEFT or not, is one layer of the text model."""
        return re.fullmatch(self.text_layer, name) is not None

    def is_unsplit(self, name: str) -> bool:
        """Tell whether the module of this full name must lie on one device: it has a residual, or is called as one."""
        return self.is_text_layer(name) or name in {self.vision_tower, self.connector}
