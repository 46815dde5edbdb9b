"""One example as the model takes it: token ids with a place for every image feature, labels, and pixels.

Tokens and pixels are made apart from each other: how many tokens an image becomes follows from its sides, so nobody who
has an image's features already needs its pixels. Nothing is ever truncated here: a cut sequence loses image tokens or,
silently, the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.images import ImageSource
from vlm import labels
from vlm.conversation import Example, Message
from vlm.family import Family, Pixels
from vlm.image_options import ImageOptions
from vlm.labels import Replacement, Span
from vlm.measure import Measure
from vlm.ruler import TokenRuler


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """The text of one example, not padded.

    Attributes:
        input_ids: S tokens, images expanded.
        labels: S labels; `vlm.labels.IGNORED` where nothing is learned.
        positions: (axes, S), the axis of text first (`Family.positions`).
    """

    input_ids: list[int]
    labels: list[int]
    positions: torch.Tensor


class Encoder:
    """Turns examples into tokens, and images into pixels, with one base model's processor."""

    def __init__(self, processor: Any, family: Family, images: ImageSource) -> None:
        self._processor = processor
        self._family = family
        self._images = images
        self._ruler = TokenRuler(processor, family)
        self._rule = family.image_rule(processor)
        self._sides: dict[str, tuple[int, int]] = {}

    def encode(self, example: Example) -> Encoded:
        """Return the example's tokens and labels; of its images only the headers are read."""
        text, spans = labels.answer_spans(example.messages, self._ruler.render)
        sides = [self._size(sha256) for sha256 in example.images]
        written = [self._family.image_text(self._processor, *each) for each in sides]
        text, replacements = expanded(text, self._family.image_token, written)
        out = self._processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return Encoded(
            input_ids=out["input_ids"],
            labels=labels.mask(
                out["input_ids"],
                offsets=out["offset_mapping"],
                spans=labels.shifted(spans, replacements),
                images=[replacement.new for replacement in replacements],
                structural_ids=self._ruler.structural_ids,
            ),
            positions=self._family.positions(self._processor, out["input_ids"], sides),
        )

    def pixels(self, sha256: str) -> Pixels:
        """Return an image as the vision tower takes it; decodes and cuts it."""
        return self._family.cut(self._processor, self._images.open_rgb(sha256))

    def measure(self, example: Example) -> Measure:
        """Return the size of the example; reads image headers, no pixels."""
        return self._ruler.measure(example.messages, [self._size(sha256) for sha256 in example.images])

    def image_tokens(self, sha256: str) -> int:
        """Return how many tokens an image becomes, structural ones included."""
        return self._rule.num_tokens(*self._size(sha256))

    @property
    def num_distinct_tokens(self) -> int:
        """Return how many different tokens the texts have that were measured."""
        return len(self._ruler.seen_ids)

    @property
    def processor(self) -> Any:
        """Return the base model's processor, with the options by which images are cut."""
        return self._processor

    @property
    def knows_tiles(self) -> bool:
        """Tell whether the base model has tiles at all, cut or not."""
        return self._family.image_settings(self._processor)["tile_px"] is not None

    def image_tiles(self, sha256: str) -> int:
        """Return into how many tiles an image is cut."""
        return self._rule.num_tiles(*self._size(sha256))

    def with_options(self, options: ImageOptions) -> "Encoder":
        """Return an encoder that cuts images by these options; headers that were read are not read again.

        Raises:
            OptionRefused: The base model cannot cut images like this.
        """
        processor = self._family.with_image_options(self._processor, options)
        other = Encoder(processor, self._family, self._images)
        other._sides = self._sides
        return other

    def render(self, messages: Sequence[Message], *, open_answer: bool = False) -> str:
        """Return messages as the base model's chat template writes them, one image token for each image."""
        return self._ruler.render(messages, open_answer=open_answer)

    def _size(self, sha256: str) -> tuple[int, int]:
        """Return (height, width) in pixels; each header is read once."""
        if sha256 not in self._sides:
            self._sides[sha256] = self._images.size(sha256)
        return self._sides[sha256]


def expanded(text: str, image_token: str, written: Sequence[str]) -> tuple[str, list[Replacement]]:
    """Put what is written for each image in place of its token, and tell where everything lies; serving does the same."""
    pieces = text.split(image_token)
    assert len(pieces) == len(written) + 1, "each image has one place"  # `checks.check_text` refuses other rows
    whole, replacements, old_at = pieces[0], [], len(pieces[0])
    for image, after in zip(written, pieces[1:], strict=True):
        old = Span(old_at, old_at + len(image_token))
        new = Span(len(whole), len(whole) + len(image))
        replacements.append(Replacement(old, new))
        whole += image + after
        old_at = old.end + len(after)
    return whole, replacements
