"""Validation: mean loss and accuracy over the labelled tokens of all examples, each token with equal weight."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.batching import Budget
from training.collator import Collator
from training.distributed import ALONE, Group
from training.loss import score
from training.precision import autocast
from vlm.precision import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What the validation split scored.

    Attributes:
        loss: Nats per labelled token.
        token_accuracy: Share of labelled tokens that were the most likely one, given the true ones before them.
        num_tokens: Labelled tokens.
    """

    loss: float
    token_accuracy: float
    num_tokens: int

    def document(self) -> dict[str, float]:
        """Return the metrics under their public names."""
        return {"eval_loss": self.loss, "eval_token_accuracy": self.token_accuracy}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """The validation split, and how to run over it.

    Attributes:
        collator: Makes its batches.
        lengths: Tokens of each of its examples.
        budget: What a forward pass may hold.
        precision: What the run computes in.
        group: The processes that share the split.
    """

    collator: Collator
    lengths: Sequence[int]
    budget: Budget
    precision: Precision
    group: Group = ALONE

    def run(self, model: Any, *, check_stop: Callable[[], None]) -> Evaluation:
        """Return the scores; leaves the model in the mode it was in, and draws no random numbers."""
        was_training = model.training
        model.eval()
        try:
            return self._run(model, check_stop)
        finally:
            model.train(was_training)

    def _run(self, model: Any, check_stop: Callable[[], None]) -> Evaluation:
        place = next(model.parameters()).device
        loss, correct, tokens = 0.0, 0, 0
        for micro_batch, counts in self.group.plan(range(len(self.lengths)), self.lengths, self.budget):
            check_stop()
            with torch.no_grad(), autocast(place, self.precision):  # a connector that is trained is a part of the batch
                scored = score(model, self.collator.batch(micro_batch))
            loss += counts * float(scored.loss_sum)
            correct += counts * scored.num_correct
            tokens += counts * scored.num_tokens
        loss, all_correct, all_tokens = self.group.total(loss, correct, tokens)
        return Evaluation(loss=loss / all_tokens, token_accuracy=all_correct / all_tokens, num_tokens=int(all_tokens))
