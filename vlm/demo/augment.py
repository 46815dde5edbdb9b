"""Turn ink masks into training pictures: bent, moved, coloured, noisy, and often as coarse as an 8 x 8 scan.

Shapes: B batch, S side of 64 pixels. Everything works on whole batches, since pictures per second are the budget.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

COLOURS: dict[str, tuple[float, float, float]] = {
    "black": (0.03, 0.03, 0.03),
    "white": (0.97, 0.97, 0.97),
    "gray": (0.5, 0.5, 0.5),
    "red": (0.88, 0.1, 0.12),
    "green": (0.1, 0.62, 0.2),
    "blue": (0.12, 0.25, 0.85),
    "yellow": (0.97, 0.88, 0.12),
    "orange": (0.97, 0.55, 0.08),
    "purple": (0.5, 0.14, 0.66),
    "pink": (0.98, 0.6, 0.76),
    "brown": (0.45, 0.27, 0.12),
    "cyan": (0.15, 0.85, 0.88),
}
COLOUR_NAMES = tuple(COLOURS)
_RGB = torch.tensor(list(COLOURS.values()))
_BLACK, _WHITE = 0, 1

# (side in pixels, weight, smallest scale): what is coarse must fill the frame to stay readable.
_RESOLUTIONS = ((8, 0.36, 0.88), (10, 0.1, 0.85), (12, 0.1, 0.75), (16, 0.14, 0.65), (24, 0.12, 0.55), (64, 0.18, 0.5))
_UPSCALES = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """A batch of pictures in the image processor's range.

    Attributes:
        pixels: `float32[B, 3, 64, 64]` from -1 to 1.
        ink: `int64[B]`, the ink's colour.
        paper: `int64[B]`, the background's colour.
    """

    pixels: Tensor
    ink: Tensor
    paper: Tensor


def picture(masks: Tensor, *, generator: torch.Generator, gray_share: float = 0.6, side: int | None = None) -> Pictures:
    """Make one picture of each mask; all of a call share one resolution.

    Args:
        masks: `uint8[B, S, S]`, 255 = ink.
        generator: The source of all randomness.
        gray_share: The share of pictures in black, white and gray.
        side: The resolution in pixels; drawn at random when not given.
    """
    weights = torch.tensor([weight for at, weight, _ in _RESOLUTIONS if side in {None, at}])
    choices = [(at, least) for at, _, least in _RESOLUTIONS if side in {None, at}]
    side, least = choices[int(torch.multinomial(weights, 1, generator=generator))]
    ink = masks[:, None].float() / 255
    ink = _thicken(ink, generator)
    ink = _bend(ink, generator, least_scale=least)
    colours = _colours(len(masks), gray_share, generator)
    ink_rgb, paper_rgb = (_tint(index, generator)[:, :, None, None] for index in colours)
    if side < 64:
        ink = F.interpolate(ink, size=(side, side), mode="area")
    ink = (ink * _between(1, 1.6, (len(ink), 1, 1, 1), generator)).clamp(0, 1) ** _between(
        0.7, 1.4, (len(ink), 1, 1, 1), generator
    )
    pixels = paper_rgb + (ink_rgb - paper_rgb) * ink
    noise = torch.randn(pixels.shape, generator=generator) * _between(0, 0.07, (len(ink), 1, 1, 1), generator)
    pixels = (pixels + noise).clamp(0, 1)
    if side < 64:
        mode = _UPSCALES[int(torch.randint(len(_UPSCALES), (1,), generator=generator))]
        corners = None if mode == "nearest" else False
        pixels = F.interpolate(pixels, size=(64, 64), mode=mode, align_corners=corners).clamp(0, 1)
    return Pictures(pixels=pixels * 2 - 1, ink=colours[0], paper=colours[1])


def _between(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _thicken(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Make a part of the strokes bolder or thinner."""
    choice = torch.rand(len(ink), generator=generator)
    bold, thin = choice < 0.2, choice > 0.9
    ink = ink.clone()
    if bold.any():
        ink[bold] = F.max_pool2d(ink[bold], 5, 1, 2)
    if thin.any():
        ink[thin] = torch.maximum(-F.max_pool2d(-ink[thin], 3, 1, 1), 0.35 * ink[thin])
    return ink


def _bend(ink: Tensor, generator: torch.Generator, *, least_scale: float) -> Tensor:
    """Scale, turn, slant, move and warp the ink (inverse map, so a scale of 0.5 doubles the grid)."""
    batch = len(ink)
    scale = _between(least_scale, 1.08, (batch, 1), generator) * (1 + 0.12 * torch.randn(batch, 2, generator=generator))
    scale = scale.clamp(0.4, 1.2)
    angle = 0.13 * torch.randn(batch, generator=generator)
    slant = 0.16 * torch.randn(batch, generator=generator)
    room = (1 - scale).clamp_min(0.0) + 0.06
    move = (torch.rand(batch, 2, generator=generator) * 2 - 1) * room
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], 1)
    shear = torch.eye(2).repeat(batch, 1, 1)
    shear[:, 0, 1] = slant
    inverse = torch.diag_embed(1 / scale) @ turn @ shear
    theta = torch.cat([inverse, -(inverse @ move[:, :, None])], dim=2)
    grid = F.affine_grid(theta, [batch, 1, 64, 64], align_corners=False)
    strength = _between(0, 0.075, (batch, 1, 1, 1), generator)
    warp = torch.randn(batch, 2, 5, 5, generator=generator) * strength
    warp = F.interpolate(warp, size=(64, 64), mode="bilinear", align_corners=True)
    return F.grid_sample(ink, grid + warp.permute(0, 2, 3, 1), align_corners=False)


def _colours(batch: int, gray_share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw the names of the ink's and the paper's colours, far enough apart to be seen."""
    gray = torch.rand(batch, generator=generator) < gray_share
    flip = torch.rand(batch, generator=generator) < 0.5
    ink = torch.randint(len(COLOUR_NAMES), (batch,), generator=generator)
    shift = torch.randint(1, len(COLOUR_NAMES), (batch,), generator=generator)
    paper = (ink + shift) % len(COLOUR_NAMES)
    close = (_RGB[ink] - _RGB[paper]).norm(dim=1) < 0.55
    paper = torch.where(close, torch.where(_RGB[ink].mean(1) > 0.5, _BLACK, _WHITE), paper)
    ink = torch.where(gray, torch.where(flip, _WHITE, _BLACK), ink)
    paper = torch.where(gray, torch.where(flip, _BLACK, _WHITE), paper)
    return ink, paper


def _tint(colour: Tensor, generator: torch.Generator) -> Tensor:
    return (_RGB[colour] + 0.045 * torch.randn(len(colour), 3, generator=generator)).clamp(0, 1)
