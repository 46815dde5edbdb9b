"""How much of a run may go through the model at once, as it was learned the hard way. Torch-free."""

import math
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from training.batching import Budget


class PassLimit(BaseModel):
    """What a pass may hold on a device, for runs like the one that learned it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_examples: int = Field(ge=1)
    num_tokens: int | None = Field(None, ge=1, description="padding included; null: only examples are counted")
    gradient_checkpointing: bool = False

    def applied(self, budget: Budget) -> Budget:
        """Return a budget that stays within this limit."""
        tokens = [each for each in (self.num_tokens, budget.num_tokens) if each is not None]
        return replace(
            budget,
            num_examples=min(self.num_examples, budget.num_examples),
            num_tokens=min(tokens) if budget.num_tokens is not None else None,
        )

    @classmethod
    def halved(cls, budget: Budget, *, longest_tokens: int, gradient_checkpointing: bool) -> "PassLimit | None":
        """Return a limit that makes the largest pass of a run smaller; None when nothing is left to make smaller.

        Args:
            budget: What the run had.
            longest_tokens: Of its longest example; fewer of these fit a pass than the budget names.
            gradient_checkpointing: Whether it computed activations again.
        """
        num_examples, num_tokens = budget.num_examples, budget.num_tokens
        if num_tokens is not None:
            num_examples = min(num_examples, max(1, num_tokens // longest_tokens))
        if num_examples > 1:
            num_examples = math.ceil(num_examples / 2)
            num_tokens = None if num_tokens is None else max(1, num_tokens // 2)
        elif budget.num_examples > 1 and num_tokens is not None and num_tokens > longest_tokens:
            # shorter ones may still go together
            num_examples, num_tokens = budget.num_examples, longest_tokens
        elif gradient_checkpointing:
            return None
        else:
            gradient_checkpointing = True
        return cls(num_examples=num_examples, num_tokens=num_tokens, gradient_checkpointing=gradient_checkpointing)
