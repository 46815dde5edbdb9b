"""What images cost, before the run: tiles and tokens of each, and what other image options would save."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from training.encoding import Encoder
from vlm.conversation import Example
from vlm.cutting import MAX_SIDE_PX
from vlm.image_options import MIN_EDGE_PX, ImageOptions, OptionRefused

WORTH_SAYING_RATIO = 0.3  # of all tokens; less does not pay for looking at images in another way than the base did


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Smallest, middle and largest of some numbers."""

    min: int
    median: int
    max: int

    @classmethod
    def of(cls, values: Sequence[int]) -> "Spread":
        """Return the spread of at least one number; the median is one of them."""
        return cls(min=min(values), median=statistics.median_low(values), max=max(values))

    def words(self, noun: str) -> str:
        """Return the spread with what is counted, in the plural where it is not one."""
        if self.min < self.max:
            return f"{self.min:,} to {self.max:,} {noun}s (median {self.median:,})"
        return f"{self.max:,} {noun}{'' if self.max == 1 else 's'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSizes:
    """The images of a split, each as often as it is shown.

    Attributes:
        tiles_per_image: The whole image included; None where the base model knows no tiles.
        tokens_per_image: Structural tokens included.
    """

    tiles_per_image: Spread | None
    tokens_per_image: Spread

    @classmethod
    def of(cls, examples: Sequence[Example], encoder: Encoder) -> "ImageSizes | None":
        """Return the sizes; None without images. Reads headers, no pixels."""
        shown = _shown(examples)
        if not shown:
            return None
        return cls(
            tiles_per_image=Spread.of([encoder.image_tiles(name) for name in shown]) if encoder.knows_tiles else None,
            tokens_per_image=Spread.of([encoder.image_tokens(name) for name in shown]),
        )

    def sentence(self) -> str:
        """Return the sizes in words."""
        tiles = "" if self.tiles_per_image is None else f"{self.tiles_per_image.words('tile')} and "
        return f"{tiles}{self.tokens_per_image.words('token')} per image"


def saving_sentence(
    examples: Sequence[Example], encoder: Encoder, *, tokens: int, image: dict[str, Any], asked: ImageOptions
) -> str | None:
    """Return by which image options a run would have far fewer tokens; None when by none.

    What was asked for is not talked out of.

    Args:
        examples: The split.
        encoder: With the image options of the run.
        tokens: Of the whole split.
        image: The image options in force, as `Family.image_settings` returns them.
        asked: Those of the job.
    """
    shown = _shown(examples)
    now = sum(encoder.image_tokens(name) for name in shown)
    found = []
    for options, words in _cheaper(image, asked):
        try:
            other = encoder.with_options(options)
        except OptionRefused:  # not for this base
            continue
        fewer = now - sum(other.image_tokens(name) for name in shown)
        if fewer >= WORTH_SAYING_RATIO * tokens:
            found.append(f"{words} would leave {tokens - fewer:,} ({fewer / tokens:.0%} fewer)")
    if not found:
        return None
    return (
        f"Of the {tokens:,} tokens of an epoch {', '.join(found)}. The base model learned to see with images scaled "
        "and cut as they are now; whether fewer tokens are enough for these, only a comparison tells."
    )


def _cheaper(image: dict[str, Any], asked: ImageOptions) -> Iterator[tuple[ImageOptions, str]]:
    if asked.upscale is None and image.get("upscale"):
        yield ImageOptions(upscale=False), "image.upscale false"
    edge = min(image.get("longest_edge", 0) // 2, MAX_SIDE_PX)
    if asked.longest_edge is None and edge >= MIN_EDGE_PX:
        yield ImageOptions(longest_edge=edge), f"image.longest_edge {edge}"


def _shown(examples: Sequence[Example]) -> list[str]:
    return [name for example in examples for name in example.images]
