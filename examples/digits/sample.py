"""Real handwritten digits (UCI, 1,797 scans of 8x8 grey levels; scikit-learn ships them) as a data set.

The first 1,500 become the zip that is uploaded; the last 297 were written by other people and are never uploaded.
"""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

NUM_UPLOADED = 1500
SIDE_PX = 64
QUESTION = "Which digit is this?"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Digit:
    """One scan as a PNG, and the word for it."""

    png: bytes
    word: str


def digits() -> list[Digit]:
    """Return all 1,797 digits in the order of the original."""
    data = load_digits()
    return [
        Digit(png=_png(scan), word=WORDS[label]) for scan, label in zip(data.images, data.target.tolist(), strict=True)
    ]


def write_zip(uploaded: list[Digit], target: Path) -> None:
    """Write a zip of images and one `data.jsonl`: `{"image", "question", "answer"}` per line."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        lines = []
        for number, digit in enumerate(uploaded):
            name = f"images/{number:04}.png"
            archive.writestr(zipfile.ZipInfo(name), digit.png)  # without the time, so the same digits give the same zip
            lines.append(json.dumps({"image": name, "question": QUESTION, "answer": digit.word}))
        archive.writestr(zipfile.ZipInfo("data.jsonl"), "\n".join(lines) + "\n")


def _png(scan: np.ndarray) -> bytes:
    """Scale a scan of 8x8 values from 0 to 16 up to a grey picture."""
    grey = Image.fromarray((scan * 255 / 16).astype(np.uint8))
    out = io.BytesIO()
    grey.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()
