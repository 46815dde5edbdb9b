"""One example as the model takes it: token ids, labels, and the tiles of its images.

Nothing is ever truncated here: a cut sequence loses image tokens or, silently, the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from training.images import ImageSource
from vlm import labels
from vlm.conversation import Example, Message
from vlm.family import Family
from vlm.labels import Replacement, Span
from vlm.measure import Measure
from vlm.padding import Tiles
from vlm.ruler import TokenRuler


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One example, not padded.

    Attributes:
        input_ids: S tokens, images expanded.
        labels: S labels; `vlm.labels.IGNORED` where nothing is learned.
        tiles: Their pixels and mask (`vlm.padding`), or None without images.
    """

    input_ids: list[int]
    labels: list[int]
    tiles: Tiles | None


class Encoder:
    """Turns examples into tokens with one base model's processor."""

    def __init__(self, processor: Any, family: Family, images: ImageSource) -> None:
        self._processor = processor
        self._images = images
        self._ruler = TokenRuler(processor, family)

    def encode(self, example: Example) -> Encoded:
        """Return the example as the model takes it; decodes and cuts its images."""
        text, spans = labels.answer_spans(example.messages, self._ruler.render)
        images = [self._images.open_rgb(sha256) for sha256 in example.images]
        out = self._processor(
            text=[text],
            images=[images] if images else None,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_text_replacement_offsets=True,
            return_tensors="pt",
        )
        replacements = _replacements(out["text_replacement_offsets"][0]) if images else []
        ids, offsets = out["input_ids"][0].tolist(), out["offset_mapping"][0].tolist()
        return Encoded(
            input_ids=ids,
            labels=labels.mask(
                ids,
                offsets=offsets,
                spans=labels.shifted(spans, replacements),
                images=[replacement.new for replacement in replacements],
                structural_ids=self._ruler.structural_ids,
            ),
            tiles=(out["pixel_values"][0], out["pixel_attention_mask"][0]) if images else None,
        )

    def measure(self, example: Example) -> Measure:
        """Return the size of the example; reads image headers, no pixels."""
        return self._ruler.measure(example.messages, [self._images.size(sha256) for sha256 in example.images])

    def render(self, messages: Sequence[Message], *, open_answer: bool = False) -> str:
        """Return messages as the base model's chat template writes them, one `<image>` for each image."""
        return self._ruler.render(messages, open_answer=open_answer)


def _replacements(raw: list[dict[str, Any]]) -> list[Replacement]:
    return [Replacement(Span(*each["span"]), Span(*each["new_span"])) for each in raw]
