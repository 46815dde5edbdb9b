"""Rules and figures that need a base model: how long each row is for it, and how much of it is learned. Torch-free."""

import re
from array import array
from collections.abc import Iterator, Sequence
from typing import Protocol

from ingest.checks import RESERVED
from ingest.drafts import Draft, ImageDraft
from ingest.issues import Finding, Rule, shown
from ingest.statistics import TokenStatistics, spread
from vlm.conversation import ImagePart, Message, TextPart
from vlm.measure import BaseFacts, ImageRefused, Measure, TemplateRefused

_SHORTEN = "Shorten it, or split it into several rows; nothing is ever cut."


class Ruler(Protocol):
    """What measures rows for a base model; only a process that may load one has it."""

    @property
    def facts(self) -> BaseFacts:
        """Return what is to be known of the base."""

    def measure(self, messages: Sequence[Message], sides_px: Sequence[tuple[int, int]]) -> Measure:
        """Return the size of a conversation with images of (height, width); raises `TemplateRefused`, `ImageRefused`.

        `labelled_tokens` of one that is longer than the context is not looked at.
        """


class Gauge:
    """Measures the rows that nothing else refuses, and remembers two numbers of each that is good."""

    def __init__(self, ruler: Ruler) -> None:
        self._ruler = ruler
        self._facts = ruler.facts
        self._tokens = array("I")
        self._image_tokens = array("I")
        self._labelled_tokens = 0
        own = "|".join(re.escape(token) for token in sorted(self._facts.reserved, key=len, reverse=True))
        self.reserved = re.compile(f"{RESERVED.pattern}|{own}") if own else RESERVED

    def check(self, draft: Draft, sides_px: Sequence[tuple[int, int]]) -> list[Finding]:
        """Return what is wrong with a row for this base; the row is counted when that is nothing."""
        endless = list(endless_text(draft, self._facts))
        if endless:
            return endless
        try:
            measure = self._ruler.measure(_messages(draft), sides_px)
        except TemplateRefused as refused:
            return [template_refused(refused, self._facts)]
        except ImageRefused as refused:
            return [image_refused(draft, refused, self._facts)]
        found = list(example_too_long(draft, measure, self._facts))
        found = found or list(nothing_learned(draft, measure, self._facts))
        if not found:
            self._tokens.append(measure.tokens)
            self._image_tokens.append(measure.image_tokens)
            self._labelled_tokens += measure.labelled_tokens
        return found

    def statistics(self) -> TokenStatistics:
        """Return the figures of the good rows."""
        total = sum(self._tokens)
        return TokenStatistics(
            base_model=self._facts.id,
            revision=self._facts.revision,
            context_tokens=self._facts.context_tokens,
            longest_edge=self._facts.longest_edge_px,
            split=self._facts.is_split,
            upscale=self._facts.is_upscaled,
            tokens=spread(self._tokens),
            image_tokens=spread(self._image_tokens),
            learned_ratio=self._labelled_tokens / total if total else None,
        )


def example_too_long(draft: Draft, measure: Measure, base: BaseFacts) -> Iterator[Finding]:
    """Find rows that are longer than the context of the base; points at what most of it is."""
    if measure.tokens <= base.context_tokens:
        return
    of_images = f", {measure.image_tokens:,} of them for its images" if measure.image_tokens else ""
    is_shown_too_much = 2 * measure.image_tokens > measure.tokens
    would_fit_bare = measure.tokens - measure.image_tokens <= base.context_tokens
    yield Finding(
        rule=Rule.EXAMPLE_TOO_LONG,
        pointer=_images_pointer(draft) if is_shown_too_much else _longest_text_pointer(draft),
        message=f"the row has {measure.tokens:,} tokens{of_images}; {_takes(base)}.",
        fix=_cut_less(base) if would_fit_bare else _SHORTEN,
    )


def endless_text(draft: Draft, base: BaseFacts) -> Iterator[Finding]:
    """Find rows whose text is too long whatever its tokens are: counting those would take a hundred times its bytes."""
    num_chars = sum(len(text.text) for text in draft.texts())
    if base.longest_token_chars is None or num_chars <= base.context_tokens * base.longest_token_chars:
        return
    message = f"the row has {num_chars:,} characters of text, surely too many tokens; {_takes(base)}."
    pointer = _longest_text_pointer(draft)
    yield Finding(rule=Rule.EXAMPLE_TOO_LONG, pointer=pointer, message=message, fix=_SHORTEN)


def nothing_learned(draft: Draft, measure: Measure, base: BaseFacts) -> Iterator[Finding]:
    """Find rows of which no token carries loss once the base's chat template and the mask are through with them."""
    if measure.labelled_tokens == 0:
        answer = next(turn for turn in draft.turns if turn.answers and turn.weight)
        yield Finding(
            rule=Rule.NOTHING_TO_LEARN,
            pointer=answer.parts[0].pointer if answer.parts else answer.pointer,
            message=f"no token of the answers is learned: nothing is left of them in the chat template of {shown(base.id)}.",
            fix="Write an answer that the template keeps, or take the row out.",
        )


def template_refused(refused: TemplateRefused, base: BaseFacts) -> Finding:
    """Return that the base's chat template does not take a row."""
    return Finding(
        rule=Rule.TEMPLATE_REFUSED,
        message=f"the chat template of {shown(base.id)} does not take the row: {shown(str(refused))}.",
        fix="Write the turns as this base model wants them, or choose another.",
    )


def image_refused(draft: Draft, refused: ImageRefused, base: BaseFacts) -> Finding:
    """Return that the base does not take the sides of an image."""
    return Finding(
        rule=Rule.IMAGE_TOO_SMALL,
        pointer=_images_pointer(draft),
        message=f"{shown(base.id)} does not take the row: {refused}.",
        fix="Crop the image, or take the row out.",
    )


def _takes(base: BaseFacts) -> str:
    return f"{shown(base.id)} takes at most {base.context_tokens:,}"


def _cut_less(base: BaseFacts) -> str:
    return f"Shorten or split the row, or {base.fewer_tokens}; nothing is ever cut."


def _images_pointer(draft: Draft) -> str:
    return draft.listed_pointer if draft.listed else draft.messages_pointer


def _longest_text_pointer(draft: Draft) -> str:
    longest = max(draft.texts(), key=lambda text: len(text.text), default=None)
    return "#" if longest is None else longest.pointer


def _messages(draft: Draft) -> tuple[Message, ...]:
    """Return the turns as the table will hold them, and so as training will read them."""
    messages = []
    for turn in draft.turns:
        assert turn.role is not None  # a bad role is an error, and such rows are not measured
        content = tuple(
            ImagePart() if isinstance(part, ImageDraft) else TextPart(text=part.text) for part in turn.parts
        )
        messages.append(Message(role=turn.role, content=content, weight=0 if turn.weight == 0 else 1))
    return tuple(messages)
