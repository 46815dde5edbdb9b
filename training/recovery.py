"""What to do when memory does not do: the same step again, with fewer examples in each pass.

A step computes the same gradient however it is cut into passes, so a run that comes through like this learns what it would
have learned with the smaller passes from the start. Where one example alone is too much, its activations are computed again
instead of kept, which changes no number either; after that nothing is left that would not change the run.
"""

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch

from core.errors import FailureCode, WorkFailed
from core.events import Emitter, Limited
from core.out_of_memory import is_out_of_memory
from training.batching import Budget, MicroBatch, padded_tokens
from training.pass_limit import PassLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempted:
    """The pass that was under way: its examples, and its tokens with padding."""

    num_examples: int
    num_tokens: int

    @classmethod
    def of(cls, micro_batch: MicroBatch, lengths: Sequence[int]) -> "Attempted":
        """Return the size of a micro-batch."""
        return cls(num_examples=sum(len(row) for row in micro_batch), num_tokens=padded_tokens(micro_batch, lengths))

    def fits(self, budget: Budget) -> bool:
        """Tell whether a budget still allows it."""
        return self.num_examples <= budget.num_examples and (
            budget.num_tokens is None or self.num_tokens <= budget.num_tokens or self.num_examples == 1
        )


class Passes:
    """How large the passes of a run may be, in training and validation: less from the first time that memory did not do.

    Attributes:
        budget: What a pass may hold now.
        checkpoints: Whether activations are computed again instead of kept.
    """

    def __init__(
        self, budget: Budget, events: Emitter, *, checkpoints: bool = False, limit: PassLimit | None = None
    ) -> None:
        self.budget = budget if limit is None else limit.applied(budget)
        self.checkpoints = checkpoints or (limit is not None and limit.gradient_checkpointing)
        self._events = events
        self._start_checkpointing: Callable[[], None] | None = None

    def can_checkpoint(self, start: Callable[[], None]) -> None:
        """Learn how to have activations computed again; done at once when that was learned to be needed."""
        self._start_checkpointing = start
        if self.checkpoints:
            start()

    def shrink(self, attempted: Attempted, *, doing: str, keeps_activations: bool = True) -> None:
        """Make the passes smaller than the one that did not fit, and say so.

        Args:
            attempted: The pass that was under way.
            doing: What for, as words behind "while".
            keeps_activations: Whether it keeps any for a gradient, so that computing them again would help.

        Raises:
            WorkFailed: `out_of_memory`, when a pass was one example already.
        """
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if attempted.num_examples > 1:
            self.budget = self._half_of(attempted)
            instead = f"at most {self.budget.num_examples} in a pass"
        elif keeps_activations and not self.checkpoints and self._start_checkpointing is not None:
            self._start_checkpointing()
            self.checkpoints = True
            instead = "activations computed again instead of kept"
        else:
            raise WorkFailed(
                FailureCode.OUT_OF_MEMORY,
                f"Memory does not hold one example of {attempted.num_tokens:,} tokens ({doing}).",
                remedy="Lower image.longest_edge, set image.upscale to false where pictures are small, take a smaller base "
                "or a quantized one, or run the job where there is more memory.",
            )
        size = f"{attempted.num_examples} examples of {attempted.num_tokens:,} tokens"
        self._events.log(
            f"Out of memory while {doing} with {size} in a pass: it is done again with {instead}, and so is what comes "
            "after it. The result stays the same.",
            level="warning",
        )
        self._events.emit(Limited(limit=self.limit.model_dump(mode="json")))

    def _half_of(self, attempted: Attempted) -> Budget:
        """Return half of a pass as a budget, and never more than the present one."""
        num_examples = min(self.budget.num_examples, math.ceil(attempted.num_examples / 2))
        num_tokens = self.budget.num_tokens
        if num_tokens is not None:
            num_tokens = min(num_tokens, max(1, attempted.num_tokens // 2))
        return replace(self.budget, num_examples=num_examples, num_tokens=num_tokens)

    @property
    def limit(self) -> PassLimit:
        """Return what was learned, for the next run like this one."""
        return PassLimit(
            num_examples=self.budget.num_examples,
            num_tokens=self.budget.num_tokens,
            gradient_checkpointing=self.checkpoints,
        )


class out_of_memory:  # noqa: N801 - used as a context manager
    """Swallows an error that means that memory did not do, and lets go of what it held; every other one goes on its way.

    Attributes:
        caught: Whether there was one.
    """

    def __init__(self) -> None:
        self.caught = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, Exception) or not is_out_of_memory(error):
            return False
        self.caught = True
        error.__traceback__ = None  # whose frames hold the activations
        return True
