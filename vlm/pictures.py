"""A tensor of pixels as a picture to look at: what a processor's scaling did to the numbers is undone."""

from typing import Any

import torch
from PIL import Image


def as_picture(values_3hw: torch.Tensor, cutter: Any) -> Image.Image:
    """Return pixels as they were before the image processor `cutter` scaled them to the model's numbers."""
    values_3hw = values_3hw.float()
    if cutter.do_normalize:
        mean, std = (torch.tensor(each)[:, None, None] for each in (cutter.image_mean, cutter.image_std))
        values_3hw = values_3hw * std + mean
    if cutter.do_rescale:
        values_3hw = values_3hw / cutter.rescale_factor
    return Image.fromarray(values_3hw.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy(), "RGB")
