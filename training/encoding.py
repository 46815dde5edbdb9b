"""One example as the model takes it: token ids, labels, and the tiles of its images.

Nothing is ever truncated here: a cut sequence loses image tokens or, silently, the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training import labels
from training.images import ImageFolder
from training.labels import Replacement, Span
from vlm.conversation import Example, Message, as_chat
from vlm.family import Family


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One example, not padded.

    Attributes:
        input_ids: S tokens, images expanded.
        labels: S labels; `labels.IGNORED` where nothing is learned.
        pixel_values: (tiles, 3, height, width) float32, or None without images.
        pixel_mask: (tiles, height, width), 1 where a tile shows image and not padding.
    """

    input_ids: list[int]
    labels: list[int]
    pixel_values: torch.Tensor | None
    pixel_mask: torch.Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The size of one example in tokens."""

    tokens: int
    image_tokens: int
    labelled_tokens: int


class Encoder:
    """Turns examples into tokens with one base model's processor."""

    def __init__(self, processor: Any, family: Family, images: ImageFolder) -> None:
        self._processor = processor
        self._images = images
        self._image_token = family.image_token
        self._structural_ids = family.masked_token_ids(processor.tokenizer)
        self._image_tokens_by_size: dict[tuple[int, int], int] = {}

    def encode(self, example: Example) -> Encoded:
        """Return the example as the model takes it; decodes and cuts its images."""
        text, spans = labels.answer_spans(example.messages, self._render)
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
                structural_ids=self._structural_ids,
            ),
            pixel_values=out["pixel_values"][0] if images else None,
            pixel_mask=out["pixel_attention_mask"][0] if images else None,
        )

    def measure(self, example: Example) -> Measure:
        """Return the size of the example; reads image headers, no pixels."""
        text, spans = labels.answer_spans(example.messages, self._render)
        out = self._processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        learned = labels.mask(
            out["input_ids"], offsets=out["offset_mapping"], spans=spans, structural_ids=self._structural_ids
        )
        image_tokens = sum(self.image_tokens(self._images.size(sha256)) for sha256 in example.images)
        return Measure(
            tokens=len(learned) - len(example.images) + image_tokens,
            image_tokens=image_tokens,
            labelled_tokens=len(learned) - learned.count(labels.IGNORED),
        )

    def image_tokens(self, size: tuple[int, int]) -> int:
        """Return how many tokens, structural ones included, an image of (height, width) pixels becomes."""
        if size not in self._image_tokens_by_size:
            # The only way that every processor offers to count without pixels; vLLM counts by it, too.
            counted = self._processor._get_num_multimodal_tokens(image_sizes=[size])  # noqa: SLF001
            self._image_tokens_by_size[size] = counted["num_image_tokens"][0]
        return self._image_tokens_by_size[size]

    def _render(self, messages: Sequence[Message], *, open_answer: bool) -> str:
        rendered: str = self._processor.apply_chat_template(
            as_chat(tuple(messages)), tokenize=False, add_generation_prompt=open_answer
        )
        return rendered


def _replacements(raw: list[dict[str, Any]]) -> list[Replacement]:
    return [Replacement(Span(*each["span"]), Span(*each["new_span"])) for each in raw]
