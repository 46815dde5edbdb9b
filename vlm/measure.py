"""The size of a conversation in tokens, as everyone speaks of it. Torch-free; `vlm.ruler` takes it."""

from dataclasses import dataclass


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
