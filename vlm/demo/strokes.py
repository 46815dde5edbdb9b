"""Synthetic handwriting: digits as jittered pen strokes, so that the tower meets more than printed glyphs.

Each digit has several skeletons (the ways people write it): pen strokes as control points in a unit square,
x to the right and y down. A smooth curve runs through the points of a stroke; a stroke of two points is a line.
"""

import numpy as np
import torch
from numpy.typing import NDArray

Point = tuple[float, float]
Stroke = tuple[Point, ...]
Skeleton = tuple[Stroke, ...]

SIDE_PX = 32
_POINTS_PER_STROKE = 22

SKELETONS: dict[str, tuple[Skeleton, ...]] = {
    "0": (
        (((0.5, 0.0), (0.2, 0.14), (0.08, 0.5), (0.2, 0.86), (0.5, 1.0), (0.8, 0.86), (0.92, 0.5), (0.8, 0.14), (0.5, 0.0)),),
        (((0.62, 0.06), (0.3, 0.05), (0.1, 0.4), (0.16, 0.82), (0.45, 1.0), (0.8, 0.85), (0.9, 0.5), (0.78, 0.12), (0.4, 0.02)),),
        (((0.5, 0.0), (0.3, 0.2), (0.24, 0.5), (0.32, 0.85), (0.5, 1.0), (0.68, 0.85), (0.76, 0.5), (0.7, 0.2), (0.5, 0.0)),),
    ),
    "1": (
        (((0.5, 0.0), (0.5, 1.0)),),
        (((0.25, 0.28), (0.55, 0.0)), ((0.55, 0.0), (0.55, 1.0))),
        (((0.2, 0.3), (0.52, 0.0)), ((0.52, 0.0), (0.5, 1.0)), ((0.22, 1.0), (0.82, 1.0))),
        (((0.3, 0.15), (0.5, 0.0)), ((0.5, 0.0), (0.5, 1.0)), ((0.3, 1.0), (0.72, 0.98))),
        (((0.62, 0.0), (0.42, 1.0)),),
    ),
    "2": (
        (((0.15, 0.25), (0.3, 0.05), (0.6, 0.0), (0.82, 0.2), (0.74, 0.45), (0.42, 0.75), (0.1, 1.0)), ((0.1, 1.0), (0.9, 0.97))),
        (((0.12, 0.2), (0.35, 0.02), (0.7, 0.04), (0.8, 0.3), (0.6, 0.62), (0.12, 0.95)), ((0.12, 0.95), (0.5, 0.92), (0.92, 1.0))),
        (((0.2, 0.18), (0.45, 0.0), (0.75, 0.12), (0.72, 0.42), (0.38, 0.82), (0.14, 0.96), (0.12, 0.8), (0.32, 0.78), (0.6, 0.95), (0.92, 0.9)),),
        (((0.2, 0.05), (0.6, 0.0), (0.8, 0.2), (0.68, 0.5), (0.2, 1.0)), ((0.2, 1.0), (0.85, 1.0))),
    ),
    "3": (
        (((0.15, 0.12), (0.45, 0.0), (0.8, 0.13), (0.74, 0.36), (0.42, 0.48)), ((0.42, 0.48), (0.8, 0.58), (0.86, 0.82), (0.5, 1.0), (0.12, 0.88))),
        (((0.15, 0.02), (0.82, 0.0)), ((0.82, 0.0), (0.42, 0.42)), ((0.42, 0.42), (0.82, 0.52), (0.86, 0.8), (0.5, 1.0), (0.12, 0.9))),
        (((0.2, 0.1), (0.5, 0.0), (0.75, 0.15), (0.66, 0.4), (0.35, 0.5), (0.7, 0.56), (0.8, 0.8), (0.5, 1.0), (0.15, 0.95)),),
        (((0.2, 0.06), (0.55, 0.0), (0.76, 0.2), (0.5, 0.45)), ((0.3, 0.46), (0.6, 0.46)), ((0.5, 0.45), (0.8, 0.65), (0.66, 0.95), (0.2, 1.0))),
    ),
    "4": (
        (((0.28, 0.0), (0.1, 0.6)), ((0.1, 0.6), (0.92, 0.58)), ((0.68, 0.2), (0.64, 1.0))),
        (((0.66, 0.0), (0.08, 0.66)), ((0.08, 0.66), (0.92, 0.66)), ((0.66, 0.0), (0.66, 1.0))),
        (((0.2, 0.02), (0.14, 0.4), (0.4, 0.56), (0.78, 0.46)), ((0.82, 0.0), (0.74, 1.0))),
        (((0.45, 0.0), (0.25, 0.35), (0.08, 0.68)), ((0.08, 0.68), (0.9, 0.62)), ((0.6, 0.35), (0.56, 1.0))),
        (((0.5, 0.0), (0.06, 0.55)), ((0.06, 0.55), (0.94, 0.52)), ((0.62, 0.3), (0.5, 1.0))),
    ),
    "5": (
        (((0.25, 0.0), (0.82, 0.0)), ((0.25, 0.0), (0.2, 0.42)), ((0.2, 0.42), (0.55, 0.35), (0.88, 0.62), (0.7, 0.93), (0.4, 1.0), (0.12, 0.88))),
        (((0.82, 0.02), (0.3, 0.05), (0.22, 0.42), (0.6, 0.42), (0.85, 0.68), (0.55, 1.0), (0.15, 0.94)),),
        (((0.85, 0.0), (0.3, 0.03)), ((0.3, 0.03), (0.2, 0.48)), ((0.2, 0.48), (0.65, 0.48), (0.8, 0.72), (0.5, 1.0), (0.1, 0.98))),
        (((0.9, 0.04), (0.45, 0.0), (0.3, 0.2), (0.45, 0.4), (0.72, 0.6), (0.64, 0.92), (0.3, 1.0), (0.14, 0.9)),),
    ),
    "6": (
        (((0.7, 0.0), (0.35, 0.2), (0.14, 0.6), (0.25, 0.93), (0.55, 1.0), (0.83, 0.82), (0.74, 0.6), (0.48, 0.52), (0.2, 0.7)),),
        (((0.4, 0.0), (0.2, 0.4), (0.16, 0.8), (0.45, 1.0), (0.8, 0.85), (0.76, 0.6), (0.45, 0.55), (0.18, 0.76)),),
        (((0.82, 0.06), (0.5, 0.04), (0.2, 0.4), (0.16, 0.78), (0.48, 1.0), (0.82, 0.8), (0.6, 0.52), (0.22, 0.62)),),
        (((0.5, 0.0), (0.28, 0.35), (0.2, 0.75), (0.42, 1.0), (0.68, 0.88), (0.6, 0.66), (0.3, 0.72)),),
    ),
    "7": (
        (((0.1, 0.05), (0.88, 0.02)), ((0.88, 0.02), (0.6, 0.5), (0.4, 1.0))),
        (((0.1, 0.05), (0.85, 0.02)), ((0.85, 0.02), (0.6, 0.45), (0.4, 1.0)), ((0.28, 0.52), (0.82, 0.48))),
        (((0.12, 0.22), (0.13, 0.03)), ((0.13, 0.03), (0.85, 0.03)), ((0.85, 0.03), (0.45, 1.0))),
        (((0.08, 0.14), (0.35, 0.02), (0.6, 0.1), (0.85, 0.02)), ((0.85, 0.02), (0.55, 0.5), (0.5, 1.0)), ((0.3, 0.55), (0.85, 0.5))),
    ),
    "8": (
        (((0.75, 0.14), (0.5, 0.0), (0.24, 0.12), (0.27, 0.33), (0.5, 0.47), (0.8, 0.7), (0.74, 0.93), (0.5, 1.0), (0.24, 0.92), (0.2, 0.7), (0.5, 0.47), (0.74, 0.3), (0.75, 0.14)),),
        (
            ((0.5, 0.0), (0.26, 0.1), (0.26, 0.36), (0.5, 0.46), (0.74, 0.36), (0.74, 0.1), (0.5, 0.0)),
            ((0.5, 0.46), (0.2, 0.58), (0.2, 0.88), (0.5, 1.0), (0.8, 0.88), (0.8, 0.58), (0.5, 0.46)),
        ),
        (((0.8, 0.05), (0.4, 0.02), (0.28, 0.25), (0.66, 0.6), (0.66, 0.92), (0.4, 1.0), (0.26, 0.8), (0.5, 0.5), (0.82, 0.06)),),
        (((0.62, 0.08), (0.4, 0.02), (0.3, 0.2), (0.55, 0.48), (0.68, 0.75), (0.5, 1.0), (0.3, 0.8), (0.48, 0.5), (0.68, 0.2), (0.58, 0.04)),),
    ),
    "9": (
        (((0.8, 0.15), (0.5, 0.0), (0.2, 0.14), (0.2, 0.4), (0.5, 0.52), (0.78, 0.36), (0.82, 0.1)), ((0.82, 0.1), (0.75, 1.0))),
        (((0.8, 0.2), (0.5, 0.0), (0.2, 0.15), (0.22, 0.42), (0.52, 0.5), (0.8, 0.25), (0.82, 0.6), (0.6, 0.94), (0.2, 0.96)),),
        (((0.78, 0.12), (0.45, 0.0), (0.2, 0.2), (0.35, 0.45), (0.72, 0.35), (0.8, 0.1), (0.72, 0.6), (0.45, 1.0)),),
        (((0.66, 0.1), (0.42, 0.02), (0.26, 0.2), (0.4, 0.42), (0.66, 0.3), (0.7, 0.1)), ((0.7, 0.1), (0.6, 1.0))),
    ),
}  # fmt: skip


def draw_digits(count: int, *, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw `count` handwritten-looking digits.

    Returns:
        Ink masks `[count, 32, 32]` (255 = ink), tight in their box, and the digit of each.
    """
    digits = rng.integers(0, 10, size=count)
    masks = np.empty((count, SIDE_PX, SIDE_PX), np.uint8)
    for start in range(0, count, 256):
        chunk = digits[start : start + 256]
        masks[start : start + 256] = _ink([_pen_path(str(digit), rng) for digit in chunk], rng)
    return masks, digits


def _pen_path(digit: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the segments `[n, 4]` (x0, y0, x1, y1) of one jittered digit, fitted to the unit box."""
    variants = SKELETONS[digit]
    skeleton = variants[rng.integers(len(variants))]
    shear, bend = rng.normal(0, 0.16), rng.normal(0, 0.08, size=2)
    jitter = rng.uniform(0.01, 0.055)
    lines = []
    for stroke in skeleton:
        points = np.asarray(stroke, np.float64)
        points = _curve(points + rng.normal(0, jitter, size=points.shape), rng)
        points[:, 0] += shear * (0.5 - points[:, 1]) + bend[0] * np.sin(np.pi * points[:, 1])
        points[:, 1] += bend[1] * np.sin(np.pi * points[:, 0])
        lines.append(np.concatenate([points[:-1], points[1:]], axis=1))
    return _fit(np.concatenate(lines), digit, rng)


def _curve(points: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a Catmull-Rom curve through the points."""
    if len(points) == 2:  # a short pen line is never quite straight
        middle = points.mean(0) + rng.normal(0, 0.025, 2)
        points = np.stack([points[0], middle, points[1]])
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    at = np.linspace(0, len(points) - 1, _POINTS_PER_STROKE)
    left = np.minimum(at.astype(int), len(points) - 2)
    t = (at - left)[:, None]
    p0, p1, p2, p3 = (padded[left + k] for k in range(4))
    curve = p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
    return np.asarray(curve, np.float64)


def _fit(segments: NDArray[np.float64], digit: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Scale the segments so that the digit fills the height of the box, as scanning programs do."""
    xs, ys = segments[:, 0::2], segments[:, 1::2]
    height, width = np.ptp(ys), np.ptp(xs)
    tall = rng.uniform(0.82, 1.0)
    narrow = 0.5 if digit == "1" else 0.95
    wide = min(tall / height * width * rng.uniform(0.7, 1.25), rng.uniform(0.6, narrow) if digit != "1" else narrow)
    xs = (xs - xs.min() - width / 2) / max(width, 0.05) * (wide if width > 0.05 else width) + 0.5
    ys = (ys - ys.min() - height / 2) / height * tall + 0.5
    return np.stack([xs[:, 0], ys[:, 0], xs[:, 1], ys[:, 1]], axis=1).astype(np.float32)


def _ink(paths: list[NDArray[np.float32]], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Ink the paths: the distance of each pixel to the nearest segment against half the pen's width."""
    longest = max(len(path) for path in paths)
    padded = np.stack([np.concatenate([path, np.repeat(path[-1:], longest - len(path), 0)]) for path in paths])
    segments = torch.from_numpy(padded)
    start, along = segments[..., :2], segments[..., 2:] - segments[..., :2]
    axis = (torch.arange(SIDE_PX) + 0.5) / SIDE_PX
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    nearest = torch.full((len(paths), SIDE_PX * SIDE_PX), torch.inf)
    for index in range(longest):  # one segment at a time keeps the memory small
        origin, step = start[:, index, None], along[:, index, None]
        offset = pixels[None] - origin
        t = ((offset * step).sum(-1) / step.pow(2).sum(-1).clamp_min(1e-9)).clamp(0, 1)
        nearest = torch.minimum(nearest, (offset - t[..., None] * step).norm(dim=-1))
    half_width = torch.from_numpy(rng.uniform(0.03, 0.085, size=(len(paths), 1)).astype(np.float32))
    ink = ((half_width - nearest) * SIDE_PX + 0.5).clamp(0, 1)
    return (ink * 255).to(torch.uint8).reshape(-1, SIDE_PX, SIDE_PX).numpy()
