"""Validation: mean loss and accuracy over the labelled tokens of all examples, each token with equal weight."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.batching import MicroBatch, plan
from training.collator import Collator
from training.distributed import ALONE, Group
from training.loss import Score, score
from training.precision import autocast
from training.recovery import Attempted, Passes, out_of_memory
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
        passes: What a forward pass may hold.
        precision: What the run computes in.
        group: The processes that share the split.
    """

    collator: Collator
    lengths: Sequence[int]
    passes: Passes
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
        loss, correct, tokens = 0.0, 0, 0
        for micro_batch, counts in self.group.plan(range(len(self.lengths)), self.lengths, self.passes.budget):
            for scored in self._scores(model, micro_batch, check_stop):
                loss += counts * float(scored.loss_sum)
                correct += counts * scored.num_correct
                tokens += counts * scored.num_tokens
        loss, all_correct, all_tokens = self.group.total(loss, correct, tokens)
        return Evaluation(loss=loss / all_tokens, token_accuracy=all_correct / all_tokens, num_tokens=int(all_tokens))

    def _scores(self, model: Any, micro_batch: MicroBatch, check_stop: Callable[[], None]) -> Iterator[Score]:
        """Yield the score of a micro-batch; those of its parts, where memory does not hold it. Then later ones are cut, too.

        Several processes must ask equally often, so with others a want of memory ends the run.
        """
        if self.group.size > 1:
            check_stop()
            yield self._score(model, micro_batch)
            return
        waiting = [micro_batch]
        while waiting:
            part = waiting.pop(0)
            if not Attempted.of(part, self.lengths).fits(self.passes.budget):
                examples = [example for row in part for example in row]
                waiting = [*plan(examples, self.lengths, self.passes.budget), *waiting]
                continue
            check_stop()
            with out_of_memory() as memory:
                scored = self._score(model, part)
            if memory.caught:
                self.passes.shrink(Attempted.of(part, self.lengths), doing="validating", keeps_activations=False)
                waiting.insert(0, part)
            else:
                yield scored

    def _score(self, model: Any, micro_batch: MicroBatch) -> Score:
        place = next(model.parameters()).device
        with torch.no_grad(), autocast(place, self.precision):  # a connector that is trained is a part of the batch
            return score(model, self.collator.batch(micro_batch))
