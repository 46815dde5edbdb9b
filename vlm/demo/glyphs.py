"""Render the pictures of the pretraining: printed characters in many fonts, and filled shapes.

All pictures are ink masks of 64 x 64 (255 = ink); colour, distortion and resolution come in `augment`.
"""

import math
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIDE_PX = 64
CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "ring", "arrow")

# Characters that no one can tell apart without their neighbours count as one identity.
_LOOKALIKES = ("0Oo", "1Il", "Cc", "Kk", "Pp", "Ss", "Uu", "Vv", "Ww", "Xx", "Zz")


def _identities() -> tuple[NDArray[np.int64], tuple[str, ...]]:
    groups: list[str] = []
    of_character = []
    for character in CHARACTERS:
        group = next((names for names in _LOOKALIKES if character in names), character)
        if group not in groups:
            groups.append(group)
        of_character.append(groups.index(group))
    of_shape = [len(groups) + index for index in range(len(SHAPES))]
    return np.array(of_character + of_shape, np.int64), tuple(groups) + SHAPES


# `IDENTITY_OF[symbol]` is the class the tower learns; symbols are the characters, then the shapes.
IDENTITY_OF, IDENTITIES = _identities()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """Ink masks and what they show.

    Attributes:
        masks: `uint8[n, 64, 64]`.
        symbols: `int64[n]`, an index into `CHARACTERS + SHAPES`.
        num_fonts: How many fonts drew them.
    """

    masks: NDArray[np.uint8]
    symbols: NDArray[np.int64]
    num_fonts: int = 0


def find_fonts(folders: list[Path]) -> dict[str, list[Path]]:
    """Return the font files under `folders` by family (the folder and the first word of the file's name)."""
    families: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in {".ttf", ".otf"}:
                word = path.stem.replace("_", "-").split("-")[0][:12].lower()
                families.setdefault(word, []).append(path)
    return dict(sorted(families.items()))


def draw_characters(fonts: list[Path], *, reference: Path) -> Bank:
    """Draw every character in every font that draws Latin characters the usual way.

    Args:
        fonts: Font files; one whose characters do not resemble the reference's is left out (symbol fonts).
        reference: A plain font.
    """
    plain = _alphabet(reference)
    assert plain is not None
    kept = [masks for path in fonts if (masks := _alphabet(path)) is not None and _resembles(masks, plain)]
    symbols = np.tile(np.arange(len(CHARACTERS), dtype=np.int64), len(kept))
    return Bank(masks=np.concatenate(kept), symbols=symbols, num_fonts=len(kept))


def draw_shapes(count: int, *, rng: np.random.Generator) -> Bank:
    """Draw `count` filled shapes of slightly varying proportions."""
    symbols = rng.integers(0, len(SHAPES), size=count)
    masks = np.stack([_shape(SHAPES[symbol], rng) for symbol in symbols])
    return Bank(masks=masks, symbols=symbols + len(CHARACTERS))


def _alphabet(path: Path) -> NDArray[np.uint8] | None:
    """Return the tight masks of all characters, or None when the font misses one."""
    try:
        font = ImageFont.truetype(str(path), 72)
    except OSError:
        return None
    masks = [_tight(font, character) for character in CHARACTERS]
    if any(mask is None for mask in masks):
        return None
    alphabet = np.stack([mask for mask in masks if mask is not None])
    missing = (alphabet[10] == alphabet[11]).all() or (alphabet[1] == alphabet[2]).all()  # the same box for everything
    return None if missing else alphabet


def _tight(font: ImageFont.FreeTypeFont, character: str) -> NDArray[np.uint8] | None:
    canvas = Image.new("L", (224, 224))
    ImageDraw.Draw(canvas).text((70, 40), character, fill=255, font=font)
    box = canvas.getbbox()
    if box is None or box[2] - box[0] < 2 or box[3] - box[1] < 8:
        return None
    ink = canvas.crop(box)
    ratio = (SIDE_PX - 4) / max(ink.size)
    ink = ink.resize((max(2, round(ink.width * ratio)), max(2, round(ink.height * ratio))), Image.Resampling.BILINEAR)
    framed = Image.new("L", (SIDE_PX, SIDE_PX))
    framed.paste(ink, ((SIDE_PX - ink.width) // 2, (SIDE_PX - ink.height) // 2))
    return np.asarray(framed, np.uint8)


def _resembles(alphabet: NDArray[np.uint8], plain: NDArray[np.uint8]) -> bool:
    """Tell whether most characters overlap with the plain ones (mean cosine of 8 x 8 averages above 0.6)."""

    def averages(masks: NDArray[np.uint8]) -> NDArray[np.float64]:
        cells = masks.reshape(len(masks), 8, 8, 8, 8).mean((2, 4)).reshape(len(masks), -1)
        return np.asarray(cells / (np.linalg.norm(cells, axis=1, keepdims=True) + 1e-6), np.float64)

    return float((averages(alphabet) * averages(plain)).sum(1).mean()) > 0.6


def _shape(name: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    canvas = Image.new("L", (SIDE_PX * 2, SIDE_PX * 2))
    draw = ImageDraw.Draw(canvas)
    middle, radius = float(SIDE_PX), SIDE_PX - 6.0
    box = (middle - radius, middle - radius, middle + radius, middle + radius)
    if name == "circle":
        draw.ellipse(box, fill=255)
    elif name == "ring":
        draw.ellipse(box, fill=255)
        hole = radius * rng.uniform(0.5, 0.75)
        draw.ellipse((middle - hole, middle - hole, middle + hole, middle + hole), fill=0)
    else:
        draw.polygon([(middle + radius * x, middle + radius * y) for x, y in _outline(name, rng)], fill=255)
    return np.asarray(canvas.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX), np.uint8)


def _outline(name: str, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return the corners of a shape in the square from -1 to 1."""
    arm, waist = rng.uniform(0.22, 0.4), rng.uniform(0.38, 0.5)
    if name == "square":
        return [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]
    if name == "triangle":
        return [(rng.uniform(-0.3, 0.3), -1.0), (1.0, 0.9), (-1.0, 0.9)]
    if name == "diamond":
        return [(0.0, -1.0), (0.75, 0.0), (0.0, 1.0), (-0.75, 0.0)]
    if name == "cross":
        quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
        turned = [(x * c - y * s, x * s + y * c) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1)) for x, y in quarter]
        return [(float(x), float(y)) for x, y in turned]
    if name == "arrow":
        return [(-1.0, -arm), (0.1, -arm), (0.1, -0.85), (1.0, 0.0), (0.1, 0.85), (0.1, arm), (-1.0, arm)]
    reach = [1.0 if corner % 2 == 0 else waist for corner in range(10)]
    return [(r * math.sin(math.pi * corner / 5), -r * math.cos(math.pi * corner / 5)) for corner, r in enumerate(reach)]
