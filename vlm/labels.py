r"""Which tokens carry loss: those that the assistant must produce, and no other. Pure functions, no torch.

A conversation is rendered turn by turn with the model's own chat template, so that the characters of each answer
are known; the processor then puts image tokens in place of each `<image>`, and says how far everything moved.

    <|im_start|>User:<image>What digit?<end_of_utterance>\nAssistant: 7<end_of_utterance>\n
                                                                    ^^^^^^^^^^^^^^^^^^^^ the span of the answer

The prefix `Assistant:` is what generation starts from, and the line break after the end token comes after generation
has stopped: neither is learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from core.errors import FailureCode, WorkFailed
from vlm.conversation import Message

IGNORED = -100


class Render(Protocol):
    """Renders messages as the base model's text."""

    def __call__(self, messages: Sequence[Message], *, open_answer: bool) -> str:
        """Return the text; `open_answer` puts the prefix of an answer at its end."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """Characters from `start` up to, not including, `end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Replacement:
    """One `<image>` of the rendered text, and where what took its place lies in the expanded text."""

    old: Span
    new: Span


def answer_spans(messages: Sequence[Message], render: Render) -> tuple[str, list[Span]]:
    """Return the rendered conversation and the span of each assistant turn that has weight.

    Raises:
        WorkFailed: The chat template rewrites earlier turns when later ones are added, so spans mean nothing.
    """
    text = render(messages, open_answer=False)
    return text, spans_in(text, messages, render)


def spans_in(text: str, messages: Sequence[Message], render: Render) -> list[Span]:
    """Return the span of each assistant turn that has weight in the rendered conversation; raises as `answer_spans`.

    Renders the conversation up to each answer, so its time grows with the square of the number of turns.
    """
    spans = []
    for index, message in enumerate(messages):
        if message.role != "assistant" or message.weight == 0:
            continue
        before = render(messages[:index], open_answer=True)
        after = text if index + 1 == len(messages) else render(messages[: index + 1], open_answer=False)
        if not (after.startswith(before) and text.startswith(after)):
            raise WorkFailed(
                FailureCode.BASE_MODEL,
                "The base model's chat template does not render a conversation turn by turn.",
                remedy="Choose another base model, or give the folder a template that only adds text for each turn.",
            )
        spans.append(Span(len(before), len(after.rstrip())))
    return spans


def shifted(spans: Sequence[Span], replacements: Sequence[Replacement]) -> list[Span]:
    """Return the spans as they lie after the replacements, which are in order of appearance."""

    def moved(position: int) -> int:
        before = [each for each in replacements if each.old.end <= position]
        return position + (before[-1].new.end - before[-1].old.end if before else 0)

    return [Span(moved(span.start), moved(span.end)) for span in spans]


def mask(
    input_ids: Sequence[int],
    *,
    offsets: Sequence[tuple[int, int]],
    spans: Sequence[Span],
    images: Sequence[Span] = (),
    structural_ids: frozenset[int],
) -> list[int]:
    """Return one label per token: its id where the assistant must produce it, else `IGNORED`.

    Args:
        input_ids: The tokens of one conversation, images expanded.
        offsets: Where each token's characters start and end in the text that `spans` refer to.
        spans: What the assistant says, end-of-turn token included.
        images: What the processor wrote in place of images, line breaks between rows of tiles included.
        structural_ids: Image and tile-position tokens; none of them is ever learned.
    """

    def is_learned(token: int, start: int) -> bool:
        return token not in structural_ids and _is_in(spans, start) and not _is_in(images, start)

    return [
        token if is_learned(token, start) else IGNORED for token, (start, _) in zip(input_ids, offsets, strict=True)
    ]


def _is_in(spans: Sequence[Span], position: int) -> bool:
    return any(span.start <= position < span.end for span in spans)
