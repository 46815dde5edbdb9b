"""The Qwen2.5-VL family: an image is one grid of patches as large as its pixels ask for; each 2 x 2 become a token.

Suffixes of tensor names: p patches, v values of a patch, i images, h and w pixels, m image tokens, e text width, a axes,
s tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from vlm.family import Family, Pixels
from vlm.image_options import ImageOptions, OptionRefused
from vlm.lora_scope import LoraNames
from vlm.measure import ImageRefused
from vlm.pictures import as_picture

_LORA_NAMES = LoraNames(
    text="language_model",
    vision="visual",
    connector=None,
    vision_targets=(  # its attention is one fused `qkv`, and `proj`; its MLP has the names of the text model's
        ("gate_proj", "gate_proj"),
        ("up_proj", "up_proj"),
        ("down_proj", "down_proj"),
    ),
    connector_targets=(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """The settings of a processor that decide how many patches an image has.

    Attributes:
        min_pixels: An image with fewer is scaled up.
        max_pixels: An image with more is scaled down.
        patch_px: The side of a patch.
        merged: How many patches a token has along each side.
        frames: How many times the one picture is shown: the tower was made for video.
    """

    min_pixels: int
    max_pixels: int
    patch_px: int
    merged: int
    frames: int

    @classmethod
    def of(cls, processor: Any) -> "Patches":
        """Read the settings of a transformers processor; its edges are areas."""
        cutter = processor.image_processor
        return cls(
            min_pixels=cutter.size["shortest_edge"],
            max_pixels=cutter.size["longest_edge"],
            patch_px=cutter.patch_size,
            merged=cutter.merge_size,
            frames=cutter.temporal_patch_size,
        )

    @property
    def longest_edge_px(self) -> int:
        """Return the side of the largest square picture."""
        return math.isqrt(self.max_pixels)

    @property
    def shorter_edges_px(self) -> tuple[int, ...]:
        """Return none: an image is never cut."""
        return ()

    @property
    def is_split(self) -> bool:
        """Return False: an image is never cut."""
        return False

    @property
    def is_upscaled(self) -> bool:
        """Return False: `image.upscale` means nothing here, though a picture below `min_pixels` is scaled up to it."""
        return False

    @property
    def unit(self) -> tuple[int, ...]:
        """Return what no image option changes: what a patch is, and how many make a token."""
        return (self.patch_px, self.merged, self.frames)

    @property
    def fewer_tokens(self) -> str:
        """Return what makes an image fewer tokens."""
        return "lower image.longest_edge"

    def grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Return (0, 0): the whole is all there is."""
        del height_px, width_px
        return 0, 0

    def num_tiles(self, height_px: int, width_px: int) -> int:
        """Return 1: the whole."""
        del height_px, width_px
        return 1

    def num_tokens(self, height_px: int, width_px: int) -> int:
        """Return how many tokens an image becomes."""
        rows, columns = self.tokens(height_px, width_px)
        return rows * columns

    def tokens(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Return the rows and columns of an image's tokens.

        Raises:
            ImageRefused: It is so long and thin that transformers does not take it.
        """
        side = self.patch_px * self.merged
        try:
            height, width = smart_resize(height_px, width_px, side, self.min_pixels, self.max_pixels)
        except ValueError as error:
            raise ImageRefused(
                f"an image is {width_px} x {height_px} pixels, and none may be more than 200 times as long as it is wide"
            ) from error
        return height // side, width // side


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen25VLFamily(Family):
    """The names, tokens and images of Qwen2.5-VL."""

    name: str = "qwen2_5_vl"
    architectures: tuple[str, ...] = ("Qwen2_5_VLForConditionalGeneration",)
    image_token: str = "<|image_pad|>"  # noqa: S105 - a token of text
    structural_tokens: tuple[str, ...] = ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
    end_token: str = "<|im_end|>"  # noqa: S105 - a token of text
    quantization_skip: tuple[str, ...] = ("model.visual", "lm_head")
    lora: LoraNames = _LORA_NAMES
    text_layer: str = r".*language_model\.layers\.\d+"
    vision_tower: str = "model.visual"
    connector: str | None = None  # the merger is in the tower, and its rows come in the order of attention windows
    can_pack: bool = True

    def set_image_options(self, processor: Any, options: ImageOptions) -> None:
        """Bound the pixels of an image by the square of `longest_edge`; no other option means anything here."""
        for option, value in options.model_dump(exclude={"longest_edge"}).items():
            if value not in (None, False):
                raise OptionRefused(
                    option,
                    f"image.{option} is {value}, and means nothing to this base model: it sees every picture as one grid "
                    "of patches, as large as the picture's pixels ask for.",
                    remedy=f"Leave image.{option} out; image.longest_edge bounds how large a picture may be.",
                )
        if options.longest_edge is None:
            return
        cutter, least = processor.image_processor, Patches.of(processor).min_pixels
        if options.longest_edge**2 < least:
            raise OptionRefused(
                "longest_edge",
                f"This base model scales every picture up to {least:,} pixels, and image.longest_edge is "
                f"{options.longest_edge}.",
                remedy=f"Set image.longest_edge to {math.isqrt(least - 1) + 1} or more.",
            )
        cutter.size = type(cutter.size)(shortest_edge=least, longest_edge=options.longest_edge**2)

    def image_settings(self, processor: Any) -> dict[str, int | bool | None]:
        """Return the largest square picture; there are no tiles."""
        edge = Patches.of(processor).longest_edge_px
        return {"longest_edge": edge, "split": False, "upscale": False, "tile_px": None, "image_tokens_per_tile": None}

    def image_rule(self, processor: Any) -> Patches:
        """Return how many patches images have with the settings of this processor."""
        return Patches.of(processor)

    def image_text(self, processor: Any, height_px: int, width_px: int) -> str:
        """Return the tokens of an image of these sides; what stands around them is in the chat template."""
        return self.image_token * Patches.of(processor).num_tokens(height_px, width_px)

    def cut(self, processor: Any, image: Image.Image) -> Pixels:
        """Return `pixel_values` (p, v), and `image_grid_thw` (1, 3): frames, and rows and columns of patches."""
        out = processor.image_processor(images=[image], return_tensors="pt")
        return {name: out[name] for name in ("pixel_values", "image_grid_thw")}

    def pictures(self, processor: Any, pixels: Pixels) -> Iterator[Image.Image]:
        """Yield the one picture, put together from its patches, which lie token by token."""
        _, rows, columns = pixels["image_grid_thw"][0].tolist()
        rule = Patches.of(processor)
        side, merged = rule.patch_px, rule.merged
        blocks = pixels["pixel_values"].view(
            rows // merged, columns // merged, merged, merged, 3, rule.frames, side, side
        )
        one_frame = blocks[:, :, :, :, :, 0]
        values_3hw = one_frame.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * side, columns * side)
        yield as_picture(values_3hw, processor.image_processor)

    def join(self, rows: Sequence[Sequence[Pixels]]) -> dict[str, torch.Tensor]:
        """Return the patches of all images behind each other, (p, v), and the grid of each, (i, 3)."""
        images = [image for row in rows for image in row]
        if not images:
            return {}
        return {name: torch.cat([image[name] for image in images]) for name in ("pixel_values", "image_grid_thw")}

    def encode_images(self, model: Any, images: Sequence[Pixels]) -> list[torch.Tensor]:
        """Return (m, e) for each image, merged; one image at a time: they share nothing, and one can have 65,536 patches."""
        return [
            model.get_image_features(image["pixel_values"], image["image_grid_thw"], return_dict=True).pooler_output[0]
            for image in images
        ]

    def project(self, model: Any, seen: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return what `encode_images` returned: nothing is left to do."""
        del model
        return list(seen)

    def positions(self, processor: Any, input_ids: Sequence[int], sides_px: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Return (4, s): the text's own, then time, row and column for M-RoPE.

        A token of text has one number on all three axes. The tokens of an image begin where the text is, each at its
        row and column, and the text goes on behind the longer side (Qwen2-VL, arXiv 2409.12191, section 2.1). The models
        work the same out in `get_rope_index`, but from the grids of pixels, which a run with kept features has not, and
        not for rows that hold several conversations.
        """
        image_id = processor.tokenizer.convert_tokens_to_ids(self.image_token)
        rule = Patches.of(processor)
        parts, at, start = [], 0, 0
        for sides in sides_px:
            image_at = input_ids.index(image_id, at)
            parts.append(torch.arange(image_at - at).expand(3, -1) + start)
            start += image_at - at
            rows, columns = rule.tokens(*sides)
            places = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), torch.arange(rows), torch.arange(columns))
            parts.append(places.T + start)
            start += max(rows, columns)
            at = image_at + rows * columns
        parts.append(torch.arange(len(input_ids) - at).expand(3, -1) + start)
        return torch.cat([torch.arange(len(input_ids))[None], torch.cat(parts, dim=1)])


QWEN2_5_VL = Qwen25VLFamily()
