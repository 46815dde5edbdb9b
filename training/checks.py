"""What must hold for every example before the first step: it fits the context, and there is something to learn."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from core.errors import FailureCode, WorkFailed
from training.encoding import Encoder
from training.image_sizes import ImageSizes
from vlm.conversation import Example, ImagePart
from vlm.measure import ImageRefused, Measure, TemplateRefused
from vlm.ruler import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The sizes of all examples of a split; `images` is None where it has none."""

    num_examples: int
    tokens: int
    longest_tokens: int
    labelled_tokens: int
    num_images: int
    image_tokens: int
    images: ImageSizes | None

    @classmethod
    def of(cls, examples: Sequence[Example], measures: Sequence[Measure], encoder: Encoder) -> "Totals":
        """Add up a split of at least one example."""
        return cls(
            num_examples=len(measures),
            tokens=sum(m.tokens for m in measures),
            longest_tokens=max(m.tokens for m in measures),
            labelled_tokens=sum(m.labelled_tokens for m in measures),
            num_images=sum(len(example.images) for example in examples),
            image_tokens=sum(m.image_tokens for m in measures),
            images=ImageSizes.of(examples, encoder),
        )

    @property
    def supervised_ratio(self) -> float:
        """Return the share of all tokens that carry loss."""
        return self.labelled_tokens / self.tokens

    @property
    def image_tokens_per_image(self) -> float:
        """Return the mean over all images, structural tokens included; 0 without images."""
        return self.image_tokens / self.num_images if self.num_images else 0.0

    def document(self) -> dict[str, Any]:
        """Return the totals as JSON."""
        document = asdict(self)
        images = document.pop("images")
        return (
            document
            | {"supervised_ratio": self.supervised_ratio, "image_tokens_per_image": self.image_tokens_per_image}
            | (images or {})
        )

    def sentence(self, *, context_tokens: int) -> str:
        """Return the totals in words."""
        return (
            f"{self.num_examples:,} examples, {self.tokens:,} tokens; the longest has {self.longest_tokens:,} of the "
            f"{context_tokens:,} that fit; {'no images' if self.images is None else self.images.sentence()}; "
            f"{self.supervised_ratio:.1%} of all tokens are learned."
        )


def check(
    examples: Sequence[Example],
    encoder: Encoder,
    limits: Limits,
    *,
    check_stop: Callable[[], None],
) -> tuple[Measure, ...]:
    """Return the size of every example; refuse those that training would have to cut or could not learn from.

    Args:
        examples: The split; at least one.
        encoder: Of the base model.
        limits: Of the base model.
        check_stop: Raises when the work must stop.

    Raises:
        WorkFailed: `bad_data`, naming the row, what is wrong with it, and what to do.
    """
    measures = []
    for example in examples:
        check_stop()
        check_text(example, limits.reserved)
        measure = _measured(example, encoder)
        check_size(example, measure, limits)
        measures.append(measure)
    return tuple(measures)


def _measured(example: Example, encoder: Encoder) -> Measure:
    try:
        return encoder.measure(example)
    except TemplateRefused as refused:
        raise WorkFailed(
            FailureCode.BAD_DATA,
            f"The base model's chat template does not take row {example.row}: {refused}.",
            remedy="Write the turns as this base model wants them, or choose another.",
        ) from refused
    except ImageRefused as refused:
        raise WorkFailed(
            FailureCode.BAD_DATA,
            f"The base model does not take row {example.row}: {refused}.",
            remedy="Crop the image, or leave the row out.",
        ) from refused


def check_text(example: Example, reserved: frozenset[str]) -> None:
    """Refuse a text that would be taken for an image, and images without a place.

    Raises:
        WorkFailed: `bad_data`.
    """
    text = "\n".join(message.text for message in example.messages)
    for token in sorted(reserved):
        if token in text:
            raise WorkFailed(
                FailureCode.BAD_DATA,
                f'Row {example.row} holds the text "{token}", which the base model reserves for itself.',
                remedy="Remove it from the text; the place of an image is a content part of type image.",
            )
    places = sum(isinstance(part, ImagePart) for message in example.messages for part in message.content)
    if places != len(example.images):
        raise WorkFailed(
            FailureCode.BAD_DATA,
            f"Row {example.row} has {len(example.images)} images and {places} places for them.",
            remedy="Give one content part of type image for each image of the row.",
        )


def check_size(example: Example, measure: Measure, limits: Limits) -> None:
    """Refuse what is longer than the context, and what has nothing to learn.

    Raises:
        WorkFailed: `bad_data`.
    """
    if measure.tokens > limits.context_tokens:
        raise WorkFailed(
            FailureCode.BAD_DATA,
            f"Row {example.row} has {measure.tokens:,} tokens, {measure.image_tokens:,} of them for its images; "
            f"the base model takes at most {limits.context_tokens:,}. Nothing is ever cut, so nothing was trained.",
            remedy=f"Shorten or split the row, or {limits.fewer_tokens}.",
        )
    if measure.labelled_tokens == 0:
        raise WorkFailed(
            FailureCode.BAD_DATA,
            f"Row {example.row} has nothing to learn: no answer of the assistant with a weight of 1.",
            remedy="Give the row an assistant message with text, or leave the row out.",
        )
