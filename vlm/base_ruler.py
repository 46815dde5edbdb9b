"""A base model as a ruler: found, loaded without its weights, and set to the image options of a job."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm import loading
from vlm.conversation import Message
from vlm.image_options import ImageOptions
from vlm.measure import BaseFacts, Measure
from vlm.ruler import Limits, TokenRuler


@dataclass(frozen=True, slots=True)
class BaseRuler:
    """Measures conversations for one base."""

    facts: BaseFacts
    _ruler: TokenRuler

    def measure(self, messages: Sequence[Message], sides_px: Sequence[tuple[int, int]]) -> Measure:
        """Return the size of a conversation; of one that does not fit, not what is learned.

        `sides_px` is (height, width) of each image, in order of appearance.
        """
        return self._ruler.measure(messages, sides_px, enough_tokens=self.facts.context_tokens)


def load_ruler(name: str, *, models_dir: Path, image: ImageOptions) -> BaseRuler:
    """Return the ruler of a base model.

    Args:
        name: A short name of the catalog, a Hub id, or an absolute folder.
        models_dir: Where the bases that Lensmith builds itself are kept.
        image: As a job would set them.

    Raises:
        WorkFailed: `base_model`: it cannot be had, is no model that we know, or cannot cut images like this.
    """
    resolved = loading.resolve(name, models_dir=models_dir, with_weights=False)
    base = loading.load_processor(resolved)
    base.family.set_image_options(base.processor, image)
    limits, rule = Limits.of(base), base.family.image_rule(base.processor)
    facts = BaseFacts(
        id=resolved.id,
        revision=resolved.revision,
        context_tokens=limits.context_tokens,
        reserved=limits.reserved,
        longest_token_chars=_longest_token_chars(base.processor),
        longest_edge_px=rule.longest_edge_px,
        is_split=rule.is_split,
        is_upscaled=rule.is_upscaled,
        fewer_tokens=limits.fewer_tokens,
    )
    return BaseRuler(facts, TokenRuler(base.processor, base.family))


def _longest_token_chars(processor: Any) -> int | None:
    """Return how many characters of a text one token can stand for at most.

    A byte-level vocabulary writes a character as one letter or several, so no token stands for more than its own name
    has. Others may make one unknown token of a long word; and what a normalizer takes out, nobody knows beforehand.
    """
    inner = processor.tokenizer.backend_tokenizer
    if inner.normalizer is not None or "ByteLevel" not in repr(inner.pre_tokenizer):
        return None
    return max(map(len, processor.tokenizer.get_vocab()))
