"""How many tokens a conversation is for a base, and how many of them are learned.

One piece of code for everyone who says it: the check before a run, the preview, the counts, and the data set's report.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from vlm import labels
from vlm.conversation import Message, as_chat
from vlm.family import Family
from vlm.loading import LoadedBase, LoadedProcessor
from vlm.measure import Measure, TemplateRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a base model allows.

    Attributes:
        context_tokens: The longest sequence that it takes.
        reserved: Tokens that the processor and the chat template write and no text may hold: typed, they would be taken
            for the real ones, and serving leaves them out of an answer.
        fewer_tokens: What makes its images fewer tokens, as words.
    """

    context_tokens: int
    reserved: frozenset[str]
    fewer_tokens: str

    @classmethod
    def of(cls, base: LoadedBase | LoadedProcessor) -> "Limits":
        """Return the limits of a base, loaded whole or without its weights."""
        family, processor = base.family, _untyped(base.processor)
        added = processor.tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special and token.content.strip()}
        return cls(
            context_tokens=base.context_tokens,
            reserved=frozenset({family.image_token, family.end_token, *family.structural_tokens, *special}),
            fewer_tokens=family.image_rule(processor).fewer_tokens,
        )


class TokenRuler:
    """Measures conversations with one base model's processor.

    Attributes:
        structural_ids: Tokens that are written around images.
        seen_ids: Every token of a text that was measured.
    """

    def __init__(self, processor: Any, family: Family) -> None:
        self._processor = processor
        self._rule = family.image_rule(processor)
        self.structural_ids = family.masked_token_ids(processor.tokenizer)
        self.seen_ids: set[int] = set()

    def measure(
        self, messages: Sequence[Message], sides_px: Sequence[tuple[int, int]], *, enough_tokens: int | None = None
    ) -> Measure:
        """Return the size of a conversation; looks at no pixel.

        Args:
            messages: The turns, with a place for each image.
            sides_px: (height, width) of each image, in order of appearance.
            enough_tokens: In a conversation that is longer, nobody wants to know what is learned (`labelled_tokens` is 0).
                Finding that out takes the square of its turns: 4 s for 800, hours for 50,000.

        Raises:
            TemplateRefused: The chat template does not take the conversation.
            ImageRefused: One of its images is not taken.
            WorkFailed: `base_model`, when no conversation can be measured with this template.
        """
        text = self.render(messages)
        out = self._processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = out["input_ids"], out["offset_mapping"]
        self.seen_ids.update(ids)
        image_tokens = sum(self._rule.num_tokens(height, width) for height, width in sides_px)
        tokens = len(ids) - len(sides_px) + image_tokens
        if enough_tokens is not None and tokens > enough_tokens:
            return Measure(tokens=tokens, image_tokens=image_tokens, labelled_tokens=0)
        spans = labels.spans_in(text, messages, self.render)
        learned = labels.mask(ids, offsets=offsets, spans=spans, structural_ids=self.structural_ids)
        labelled = len(learned) - learned.count(labels.IGNORED)
        return Measure(tokens=tokens, image_tokens=image_tokens, labelled_tokens=labelled)

    def render(self, messages: Sequence[Message], *, open_answer: bool = False) -> str:
        """Return messages as the base model's chat template writes them, one image token for each image.

        Raises:
            TemplateRefused: The template does not take them.
        """
        try:
            rendered: str = self._processor.apply_chat_template(
                as_chat(tuple(messages)), tokenize=False, add_generation_prompt=open_answer
            )
        except jinja2.TemplateError as error:
            raise TemplateRefused(str(error)) from error
        return rendered


def _untyped(processor: Any) -> Any:
    """Return a processor as what it is to mypy; its class does not say that it has a tokenizer."""
    return processor
