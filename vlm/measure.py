"""The size of a conversation in tokens, and what of a base limits it. Torch-free; `vlm.ruler` takes the measure."""

from dataclasses import dataclass

from core.errors import LensmithError


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The size of one example in tokens.

    Attributes:
        tokens: All of them, those of its images included.
        image_tokens: Those of its images, structural ones included.
        labelled_tokens: Those that carry loss.
    """

    tokens: int
    image_tokens: int
    labelled_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFacts:
    """What somebody who measures for a base has to know of it.

    Attributes:
        id: Its name, as `vlm.loading.resolve` settled it.
        revision: The Hub's commit, or the digest of its folder.
        context_tokens: The longest sequence that it takes.
        reserved: Tokens that no text may hold.
        longest_token_chars: No token is written with more characters; None where the tokenizer rewrites texts.
        longest_edge_px: `image.longest_edge`, as it is in force.
        is_split: Whether images are cut into tiles.
        is_upscaled: Whether small images are scaled up to it.
        fewer_tokens: What makes an image fewer tokens, as a clause that begins with a verb.
    """

    id: str
    revision: str
    context_tokens: int
    reserved: frozenset[str]
    longest_token_chars: int | None
    longest_edge_px: int
    is_split: bool
    is_upscaled: bool
    fewer_tokens: str


class TemplateRefused(LensmithError):
    """The base model's chat template does not take a conversation; its own words say why."""


class ImageRefused(LensmithError):
    """The base model does not take an image of these sides; its own words say why."""
