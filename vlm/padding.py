"""Rows with unequal numbers of tiles as one batch; training and serving pad alike.

Suffixes of tensor names: b rows, t tiles, h and w pixels.
"""

from collections.abc import Sequence

import torch

Tiles = tuple[torch.Tensor, torch.Tensor]  # (t, 3, h, w) float32, and (t, h, w): 1 where a tile shows image


def pad_tiles(rows: Sequence[Tiles | None]) -> dict[str, torch.Tensor]:
    """Return `pixel_values` and `pixel_attention_mask` of a batch; nothing when no row has an image.

    A missing tile is all zero with an all-zero mask; the models drop such tiles.

    Args:
        rows: The tiles and masks of each row, None without images; all tiles of one size.
    """
    tiled = [row for row in rows if row is not None]
    if not tiled:
        return {}
    height, width = tiled[0][0].shape[-2:]
    num_tiles = max(len(values) for values, _ in tiled)
    values_bt3hw = torch.zeros(len(rows), num_tiles, 3, height, width)
    mask_bthw = torch.zeros(len(rows), num_tiles, height, width, dtype=torch.long)
    for index, row in enumerate(rows):
        if row is not None:
            values_t3hw, mask_thw = row
            values_bt3hw[index, : len(values_t3hw)] = values_t3hw
            mask_bthw[index, : len(mask_thw)] = mask_thw
    return {"pixel_values": values_bt3hw, "pixel_attention_mask": mask_bthw}
