"""Figures about the good rows of a data set, gathered row by row in little memory."""

import math
from array import array
from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel

from ingest.drafts import Draft

_LABEL_CHARS = 64
_MAX_LABELS = 10_000
_SHOWN_LABELS = 50


class Spread(BaseModel):
    """Smallest, middle and largest of some numbers; `p95` is the one that 95 of 100 do not exceed."""

    min: int
    p50: int
    p95: int
    max: int


class Label(BaseModel):
    """A short answer and how often it is given."""

    answer: str
    count: int


class Labels(BaseModel):
    """The most frequent short answers. `num_distinct` is a lower bound once 10,000 different ones were seen."""

    top: list[Label]
    num_distinct: int
    num_short_answers: int


class TokenStatistics(BaseModel):
    """How long the good rows are for a base model, with images cut like this. A spread over nothing is `null`.

    `tokens` and `image_tokens` are per example, images in the first included; `learned_ratio` is the share of all
    tokens that carries loss.
    """

    base_model: str
    revision: str
    context_tokens: int
    longest_edge: int
    split: bool
    upscale: bool
    tokens: Spread | None
    image_tokens: Spread | None
    learned_ratio: float | None


class Statistics(BaseModel):
    """What a data set looks like. A spread over nothing is `null`.

    `answer_chars_ratio` is the share of all text that is learned: answers without those of weight 0. `tokens` is `null`
    unless a base model was named.
    """

    num_images: int
    images_bytes: int
    image_long_side_px: Spread | None
    image_short_side_px: Spread | None
    images_per_example: Spread | None
    question_chars: Spread | None
    answer_chars: Spread | None
    answer_chars_ratio: float | None
    labels: Labels
    tokens: TokenStatistics | None = None


class Tally:
    """Counts questions, answers and images of examples."""

    def __init__(self) -> None:
        self._question_chars = array("I")
        self._answer_chars = array("I")
        self._images_per_example = array("I")
        self._all_chars = 0
        self._labels: Counter[str] = Counter()
        self._num_short = 0

    def add(self, draft: Draft, num_images: int) -> None:
        """Count one good row."""
        self._images_per_example.append(num_images)
        for turn in draft.turns:
            text = turn.text.strip()
            self._all_chars += len(text)
            if turn.answers and turn.weight:
                self._count_answer(text)
            elif turn.role == "user":
                self._question_chars.append(len(text))

    def statistics(
        self,
        *,
        long_sides_px: Sequence[int],
        short_sides_px: Sequence[int],
        images_bytes: int,
        tokens: TokenStatistics | None = None,
    ) -> Statistics:
        """Return the figures, with those of the images and of the tokens."""
        top = [Label(answer=answer, count=count) for answer, count in self._labels.most_common(_SHOWN_LABELS)]
        return Statistics(
            num_images=len(long_sides_px),
            images_bytes=images_bytes,
            image_long_side_px=spread(long_sides_px),
            image_short_side_px=spread(short_sides_px),
            images_per_example=spread(self._images_per_example),
            question_chars=spread(self._question_chars),
            answer_chars=spread(self._answer_chars),
            answer_chars_ratio=round(sum(self._answer_chars) / self._all_chars, 4) if self._all_chars else None,
            labels=Labels(top=top, num_distinct=len(self._labels), num_short_answers=self._num_short),
            tokens=tokens,
        )

    def _count_answer(self, answer: str) -> None:
        self._answer_chars.append(len(answer))
        if len(answer) > _LABEL_CHARS:
            return
        self._num_short += 1
        if answer in self._labels or len(self._labels) < _MAX_LABELS:
            self._labels[answer] += 1


def spread(values: Sequence[int]) -> Spread | None:
    """Return smallest, middle and largest, each one of the numbers (the nearest rank); `None` of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    p50, p95 = (ordered[math.ceil(len(ordered) * percent / 100) - 1] for percent in (50, 95))
    return Spread(min=ordered[0], p50=p50, p95=p95, max=ordered[-1])
