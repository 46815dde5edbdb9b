"""How the processors of Idefics3 and SmolVLM cut an image, as arithmetic on its sides: tiles and tokens. Torch-free.

Source: `resize`, `resize_for_vision_encoder` and `split_images` of both image processors in transformers 5.23. The
counter that transformers has (`get_number_of_image_patches`) leaves out a rounding, so it is off where the longest edge
is no multiple of the tile; and `SmolVLMProcessor` has no counter of tokens at all.

The processors have no setting that leaves small images small: `size` scales up as well as down. Ours is an attribute of the
image processor, `UPSCALE`, which `save_pretrained` writes and `from_pretrained` gives back; the processors themselves do not
heed it, so whoever makes pixels has to ask `filled_sides` first (`vlm.tiled`).
"""

import math
from dataclasses import dataclass
from typing import Any

MAX_SIDE_PX = 4096  # transformers scales anything longer down to it
TILES_PER_PASS = 8  # through a vision tower that is not trained: 0.1 GB of activations at 512 px and SigLIP-B's width
GRID = 6  # rows and columns that have tokens of their own, `<row_1_col_1>` to `<row_6_col_6>`
UPSCALE = "do_upscale"  # of an image processor; only ever there as False
_AROUND_TILE = 2  # `<fake_token_around_image><row_r_col_c>`
_AROUND_WHOLE = 3  # `<fake_token_around_image><global-img>`, and the closing token


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutting:
    """The settings of a processor that decide into what an image is cut.

    Attributes:
        longest_edge_px: Every image is scaled to it, up or down; without up-scaling only down.
        tile_px: The side of a tile.
        is_split: Whether an image becomes a grid of tiles and the whole; else it is one tile.
        tokens_per_tile: Image features of one tile.
        is_upscaled: Whether small images are scaled up to the longest edge, as transformers does; else only until they
            fill the tiles that they need.
        blank_line_tokens: Into how many tokens the tokenizer makes the blank line between the grid and the whole.
    """

    longest_edge_px: int
    tile_px: int
    is_split: bool
    tokens_per_tile: int
    is_upscaled: bool = True
    blank_line_tokens: int = 1

    @classmethod
    def of(cls, processor: Any) -> "Cutting":
        """Read the settings of a transformers processor."""
        cutter = processor.image_processor
        return cls(
            longest_edge_px=cutter.size["longest_edge"],
            tile_px=cutter.max_image_size["longest_edge"],
            is_split=cutter.do_image_splitting,
            tokens_per_tile=processor.image_seq_len,
            is_upscaled=getattr(cutter, UPSCALE, True),
            blank_line_tokens=len(processor.tokenizer("\n\n", add_special_tokens=False)["input_ids"]),
        )

    @property
    def unit(self) -> tuple[int, ...]:
        """Return what no image option changes: the image features of a tile."""
        return (self.tokens_per_tile,)

    @property
    def fewer_tokens(self) -> str:
        """Return what makes an image fewer tokens."""
        if not self.is_split:
            return "show fewer images"
        if self.is_upscaled:
            return "lower image.longest_edge, set image.upscale to false where pictures are small, or set image.split to false"
        return "lower image.longest_edge or set image.split to false"

    @property
    def max_longest_edge_px(self) -> int:
        """Return the longest edge at which every tile still has a token for its place."""
        return min(GRID * self.tile_px, MAX_SIDE_PX)

    @property
    def shorter_edges_px(self) -> tuple[int, ...]:
        """Return longest edges that make fewer tiles, each half of the one before, down to one tile."""
        edges = [self.longest_edge_px // 2**halvings for halvings in range(1, 8)]
        return tuple(edge for edge in edges if self.is_split and edge >= self.tile_px)

    @property
    def is_within_grid(self) -> bool:
        """Tell whether no image can become more rows or columns than there are tokens for."""
        return not self.is_split or self.longest_edge_px <= self.max_longest_edge_px

    def grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Return the rows and columns of tiles beside the whole; (0, 0) when the whole is all there is."""
        if not self.is_split:
            return 0, 0
        sides = self._published_sides if self.is_upscaled else self._needed_sides
        height, width = sides(height_px, width_px)
        if max(height, width) <= self.tile_px:
            return 0, 0
        return height // self.tile_px, width // self.tile_px

    def filled_sides(self, height_px: int, width_px: int) -> tuple[int, int] | None:
        """Return (height, width) that an image has to have before the processor, which then scales it no more.

        None where the processor comes to the same tiles by itself: with up-scaling; without a grid, where all are one
        tile; and for images that are as large as the longest edge, when that is a multiple of the tile.
        """
        if self.is_upscaled or not self.is_split:
            return None
        needed = self._needed_sides(height_px, width_px)
        return None if needed == self._published_sides(height_px, width_px) else needed

    def num_tiles(self, height_px: int, width_px: int) -> int:
        """Return into how many tiles an image is cut, the whole included."""
        rows, columns = self.grid(height_px, width_px)
        return rows * columns + 1

    def num_tokens(self, height_px: int, width_px: int) -> int:
        """Return how many tokens an image becomes, structural ones included."""
        rows, columns = self.grid(height_px, width_px)
        tokens = self.tokens_per_tile + _AROUND_WHOLE
        if rows == 0:
            return tokens
        line = columns * (self.tokens_per_tile + _AROUND_TILE) + 1  # and the end of the line
        return tokens + rows * line + self.blank_line_tokens - 1

    def _published_sides(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Return (height, width) in whole tiles as the processors scale: the longer side leads, and rounds up first."""
        height, width = _scaled(height_px, width_px, self.longest_edge_px)
        ratio = width / height
        if width >= height:
            width = self._whole_tiles(width)
            height = self._whole_tiles(int(width / ratio))
        else:
            height = self._whole_tiles(height)
            width = self._whole_tiles(int(height * ratio))
        return height, width

    def _needed_sides(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Return (height, width) in whole tiles of an image that is never scaled up: each side rounds up by itself."""
        height, width = height_px, width_px
        if max(height, width) > self.longest_edge_px:
            height, width = _scaled(height, width, self.longest_edge_px)
        return self._whole_tiles(height), self._whole_tiles(width)

    def _whole_tiles(self, side_px: int) -> int:
        return math.ceil(side_px / self.tile_px) * self.tile_px


def _scaled(height: int, width: int, longest_edge: int) -> tuple[int, int]:
    """Scale the longer side to `longest_edge`, the other to the next even number, and both below `MAX_SIDE_PX`."""
    ratio = width / height
    if width >= height:
        width, height = longest_edge, int(longest_edge / ratio)
        height += height % 2
    else:
        height, width = longest_edge, int(longest_edge * ratio)
        width += width % 2
    height, width = max(height, 1), max(width, 1)
    ratio = width / height
    if max(height, width) > MAX_SIDE_PX:
        if width >= height:
            width, height = MAX_SIDE_PX, int(MAX_SIDE_PX / ratio)
        else:
            height, width = MAX_SIDE_PX, int(MAX_SIDE_PX * ratio)
    return max(height, 1), max(width, 1)
