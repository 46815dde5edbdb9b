"""What differs between vision-language families: module names and tokens as data, images as a few methods.

A family is one file: data for this class, and how its images become tokens, pixels and features.
"""

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from vlm.image_options import ImageOptions
from vlm.lora_scope import LoraNames

Pixels = Mapping[str, torch.Tensor]  # one image as a vision tower takes it; the first axis counts tiles or patches


class ImageRule(Protocol):
    """What an image becomes with the settings of a processor, by its sides alone."""

    @property
    def longest_edge_px(self) -> int:
        """Return `image.longest_edge`, as it is in force."""
        ...

    @property
    def is_split(self) -> bool:
        """Tell whether images are cut into tiles."""
        ...

    @property
    def is_upscaled(self) -> bool:
        """Tell whether small images are scaled up to the longest edge."""
        ...

    @property
    def unit(self) -> tuple[int, ...]:
        """Return what no image option changes: a processor with other numbers makes other tokens."""
        ...

    @property
    def fewer_tokens(self) -> str:
        """Return what makes an image fewer tokens, as a clause that begins with a verb."""
        ...

    @property
    def shorter_edges_px(self) -> tuple[int, ...]:
        """Return longest edges that make fewer tiles, falling; none where images are not cut."""
        ...

    def grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Return the rows and columns of tiles beside the whole; (0, 0) when the whole is all there is."""
        ...

    def num_tiles(self, height_px: int, width_px: int) -> int:
        """Return into how many tiles an image is cut, the whole included; 1 where it is not cut."""
        ...

    def num_tokens(self, height_px: int, width_px: int) -> int:
        """Return how many tokens are written in place of `image_token`, structural ones included.

        Raises:
            ImageRefused: No image of these sides is taken.
        """
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
    def set_image_options(self, processor: Any, options: ImageOptions) -> None:
        """Set the image options of a job on a processor; unset ones keep what the base came with.

        The processor is saved with the adapter, so that serving cuts images exactly as training did.

        Raises:
            OptionRefused: This base cannot follow one of them.
        """

    def with_image_options(self, processor: Any, options: ImageOptions) -> Any:
        """Return a copy of the processor with these options, and leave it as it is; tokenizer and template are shared.

        Raises:
            OptionRefused: This base cannot follow one of them.
        """
        own = copy.copy(processor)
        own.image_processor = copy.deepcopy(processor.image_processor)
        self.set_image_options(own, options)
        return own

    @abstractmethod
    def image_settings(self, processor: Any) -> dict[str, int | bool | None]:
        """Return the image settings in force as JSON: every image option, and what they come to."""

    @abstractmethod
    def image_rule(self, processor: Any) -> ImageRule:
        """Return what images become with the settings of this processor."""

    @abstractmethod
    def image_text(self, processor: Any, height_px: int, width_px: int) -> str:
        """Return what is written in place of `image_token` for an image of these sides."""

    @abstractmethod
    def cut(self, processor: Any, image: Image.Image) -> Pixels:
        """Return an image as the vision tower takes it."""

    @abstractmethod
    def pictures(self, processor: Any, pixels: Pixels) -> Iterator[Image.Image]:
        """Yield what `cut` returned as pictures to look at: the tiles row by row, the whole at last."""

    @abstractmethod
    def join(self, rows: Sequence[Sequence[Pixels]]) -> dict[str, torch.Tensor]:
        """Return the pixels of a batch as arguments of the model; nothing when no row has an image."""

    @abstractmethod
    def encode_images(self, model: Any, images: Sequence[Pixels]) -> list[torch.Tensor]:
        """Return what the vision tower makes of each image, before the connector."""

    @abstractmethod
    def project(self, model: Any, seen: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the features of each image, (tokens, text width), from what `encode_images` returned."""

    def positions(self, processor: Any, input_ids: Sequence[int], sides_px: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Return the positions of one conversation's tokens, (1, tokens), or (axes, tokens) with those of text first.

        Args:
            processor: As it is set.
            input_ids: The tokens, images expanded.
            sides_px: (height, width) of each image, in order of appearance.
        """
        del processor, sides_px  # positions count tokens; families that tell where in an image a token lies say more
        return torch.arange(len(input_ids))[None]

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
