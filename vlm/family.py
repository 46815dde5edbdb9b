"""What differs between vision-language families, as data: which modules to quantize, to adapt, and which tokens to mask."""

import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from vlm.cutting import GRID

_PLACES = range(1, GRID + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family of models that share their module names, prompt format and image tokens.

    Attributes:
        name: The family's name in the catalog.
        architectures: Values of `config.architectures` that belong to it.
        quantization_skip: Modules that stay unquantized. transformers matches from the start of the name, so
            `vision_model` alone would skip nothing, and giving any list drops the default `lm_head`.
        lora_exclude: PEFT's `exclude_modules`, a pattern on the full module name: without it the targets
            also hit the vision tower's `q_proj`, `k_proj` and `v_proj`.
        text_scope: A pattern on the full module name of what LoRA may reach.
        image_token: The token that an image's features replace.
        structural_tokens: The other tokens the processor writes around an image.
        end_token: What ends an answer.
    """

    name: str
    architectures: tuple[str, ...]
    quantization_skip: tuple[str, ...] = ("model.vision_model", "model.connector", "lm_head")
    lora_exclude: str = r".*(vision_model|connector).*"
    text_scope: str = r".*text_model\..*"
    image_token: str = "<image>"  # noqa: S105 - a token of text
    structural_tokens: tuple[str, ...] = (
        "<fake_token_around_image>",
        "<global-img>",
        *(f"<row_{row}_col_{column}>" for row in _PLACES for column in _PLACES),
    )
    end_token: str = "<end_of_utterance>"  # noqa: S105 - a token of text

    def masked_token_ids(self, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
        """Return the ids of image and structural tokens; none of them may carry a label."""
        names = (self.image_token, *self.structural_tokens)
        vocabulary = tokenizer.get_vocab()
        return frozenset(vocabulary[name] for name in names if name in vocabulary)

    def image_token_id(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Return the id of the token that an image's features replace."""
        return int(tokenizer.get_vocab()[self.image_token])

    def end_token_id(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Return the id of the token that ends an answer; generation stops at it."""
        return int(tokenizer.get_vocab()[self.end_token])

    def is_text_module(self, name: str) -> bool:
        """Tell whether a module of this full name belongs to the text model."""
        return re.fullmatch(self.text_scope, name) is not None
