"""Families that cut an image into a grid of tiles and the whole: Idefics3 and SmolVLM.

Suffixes of tensor names: t tiles, p patches, d vision width, h and w pixels, m image tokens, e text width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from vlm.cutting import GRID, TILES_PER_PASS, UPSCALE, Cutting
from vlm.family import Family, Pixels
from vlm.image_options import ImageOptions, OptionRefused
from vlm.lora_scope import LoraNames
from vlm.modules import LORA_NAMES
from vlm.padding import pad_tiles
from vlm.pictures import as_picture

_PLACES = range(1, GRID + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TiledFamily(Family):
    """A family whose modules and tokens have Idefics3's names."""

    image_token: str = "<image>"  # noqa: S105 - a token of text
    structural_tokens: tuple[str, ...] = (
        "<fake_token_around_image>",
        "<global-img>",
        *(f"<row_{row}_col_{column}>" for row in _PLACES for column in _PLACES),
    )
    end_token: str = "<end_of_utterance>"  # noqa: S105 - a token of text
    quantization_skip: tuple[str, ...] = ("model.vision_model", "model.connector", "lm_head")
    lora: LoraNames = LORA_NAMES
    text_layer: str = r".*text_model\.layers\.\d+"
    vision_tower: str = "model.vision_model"
    connector: str | None = "model.connector"
    can_pack: bool = True

    def set_image_options(self, processor: Any, options: ImageOptions) -> None:
        """Set how images are scaled and cut.

        Raises:
            OptionRefused: Images could become more tiles than there are tokens for; the rest would be written as text.
        """
        cutter = processor.image_processor
        if options.longest_edge is not None:
            cutter.size = type(cutter.size)(longest_edge=options.longest_edge)
        if options.split is not None:
            cutter.do_image_splitting = options.split
        if options.upscale is False:
            setattr(cutter, UPSCALE, False)
        elif options.upscale and hasattr(cutter, UPSCALE):
            delattr(cutter, UPSCALE)  # so that what is cut alike has one digest
        cutting = Cutting.of(processor)
        if not cutting.is_within_grid:
            raise OptionRefused(
                "split" if options.longest_edge is None else "longest_edge",
                f"This base model knows {GRID} x {GRID} tiles of {cutting.tile_px} pixels, and image.longest_edge is "
                f"{cutting.longest_edge_px}.",
                remedy=f"Set image.longest_edge to {cutting.max_longest_edge_px} or less, or image.split to false.",
            )

    def image_settings(self, processor: Any) -> dict[str, int | bool | None]:
        """Return how images are scaled and cut, and what a tile is."""
        cutting = Cutting.of(processor)
        return {
            "longest_edge": cutting.longest_edge_px,
            "split": cutting.is_split,
            "upscale": cutting.is_upscaled,
            "tile_px": cutting.tile_px,
            "image_tokens_per_tile": cutting.tokens_per_tile,
        }

    def image_rule(self, processor: Any) -> Cutting:
        """Return how images are cut with the settings of this processor."""
        return Cutting.of(processor)

    def image_text(self, processor: Any, height_px: int, width_px: int) -> str:
        """Return the tokens of an image of these sides, as its processor writes them."""
        rows, columns = Cutting.of(processor).grid(height_px, width_px)
        return str(processor.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0))

    def cut(self, processor: Any, image: Image.Image) -> Pixels:
        """Return `pixel_values` (t, 3, h, w) and `pixel_attention_mask` (t, h, w): 1 where a tile shows image."""
        cutter, size = processor.image_processor, {}
        sides = Cutting.of(processor).filled_sides(image.height, image.width)
        if sides is not None:  # the processor would scale it up to its longest edge; of whole tiles it only cuts
            height, width = sides
            image = image.resize((width, height), cutter.resample)
            size = {"size": {"longest_edge": max(sides)}}
        out = cutter(images=[[image]], return_tensors="pt", **size)
        return {name: out[name][0] for name in ("pixel_values", "pixel_attention_mask")}

    def pictures(self, processor: Any, pixels: Pixels) -> Iterator[Image.Image]:
        """Yield each tile without its padding."""
        for values_3hw, mask_hw in zip(pixels["pixel_values"], pixels["pixel_attention_mask"].bool(), strict=True):
            height, width = int(mask_hw.any(dim=1).sum()), int(mask_hw.any(dim=0).sum())
            yield as_picture(values_3hw[:, :height, :width], processor.image_processor)

    def join(self, rows: Sequence[Sequence[Pixels]]) -> dict[str, torch.Tensor]:
        """Return the tiles of a batch, padded to as many for each row."""
        return pad_tiles([_joined(images) if images else None for images in rows])

    def encode_images(self, model: Any, images: Sequence[Pixels]) -> list[torch.Tensor]:
        """Return (t, p, d) for each image; a few tiles at a time, whichever image they are of."""
        values_t3hw, mask_thw = _joined(images)
        parts = []
        for start in range(0, len(values_t3hw), TILES_PER_PASS):
            some = slice(start, start + TILES_PER_PASS)
            parts.append(_seen(model, values_t3hw[some], mask_thw[some]))
        seen_tpd = torch.cat(parts)
        return list(torch.split(seen_tpd, [len(image["pixel_values"]) for image in images]))

    def project(self, model: Any, seen: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return (m, e) for each image."""
        features_tme = model.model.connector(torch.cat(list(seen)))
        return [part_tme.flatten(0, 1) for part_tme in torch.split(features_tme, [len(each) for each in seen])]


def _seen(model: Any, values_t3hw: torch.Tensor, mask_thw: torch.Tensor) -> torch.Tensor:
    """Return (t, p, d) as `get_image_features` of both families makes it, without what the connector makes of it.

    Its connector would draw dropout that nobody asked for where it has an adapter.
    """
    side = model.config.vision_config.patch_size
    squares = mask_thw.unfold(1, side, side).unfold(2, side, side)
    out = model.model.vision_model(
        pixel_values=values_t3hw.to(model.dtype), patch_attention_mask=squares.sum(dim=(-1, -2)) > 0, return_dict=True
    )
    seen_tpd: torch.Tensor = out.last_hidden_state
    return seen_tpd


def _joined(images: Sequence[Pixels]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tiles of several images behind each other, and their masks; the tiles of one processor have one size."""
    names = ("pixel_values", "pixel_attention_mask")
    values_t3hw, mask_thw = (torch.cat([image[name] for image in images]) for name in names)
    return values_t3hw, mask_thw
