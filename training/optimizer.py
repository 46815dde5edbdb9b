"""The optimizer: LoRA+ (another learning rate for LoRA's B; Hayou et al., arXiv 2402.12354), and its step without memory."""

from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
from peft.optimizers import create_loraplus_optimizer
from transformers import Trainer
from trl import SFTConfig

from core.errors import FailureCode, WorkFailed
from training.recovery import out_of_memory


def loraplus(model: Any, args: SFTConfig, *, lr_ratio: float) -> torch.optim.Optimizer:
    """Return the optimizer that `args` names, in PEFT's groups: B learns `lr_ratio` times as fast as A.

    DoRA's magnitudes go with B, as PEFT has it. A scheduler scales each group's own rate, so the ratio holds at
    every step; the first group is A's, which is what the loop logs as the learning rate.

    Args:
        model: The `PeftModel`, as it will be trained.
        args: Optimizer, learning rate, betas and weight decay.
        lr_ratio: Learning rate of B over that of A, at least 1.
    """
    kind, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    optimizer = create_loraplus_optimizer(
        model, kind, loraplus_lr_ratio=lr_ratio, loraplus_weight_decay=args.weight_decay, **options
    )
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def guard(optimizer: torch.optim.Optimizer, *, redo: Callable[[], None]) -> None:
    """Let a step that finds no memory be done again after `redo`, which makes the gradients anew.

    It can be as long as nothing was written: autograd counts what is written to each tensor. To that end the room that
    one tensor's update takes is asked for before the first is touched.
    """
    step = optimizer.step  # bound

    def guarded(self: torch.optim.Optimizer, closure: Any = None) -> Any:
        while True:
            before, known = _writes(self), set(self.state)
            with out_of_memory():
                _ask_for_room(self)
                return step(closure)
            written = _writes(self) != before
            for weight in set(self.state) - known:  # a state may be half made, and would not be made again
                del self.state[weight]
            if written:
                raise WorkFailed(
                    FailureCode.OUT_OF_MEMORY,
                    "Memory ran out while the optimizer was writing; a part of the adapter has taken the step already.",
                    remedy="The job goes on from its last checkpoint when it is tried again: POST /jobs/{id}/retry.",
                    retryable=True,
                )
            redo()

    optimizer.step = MethodType(guarded, optimizer)  # type: ignore[method-assign]


def _ask_for_room(optimizer: torch.optim.Optimizer) -> None:
    """Take, and give back, what an update takes beside the weights: on a GPU all are updated at once, else one by one."""
    weights = list(_trained(optimizer))
    taken = weights if weights[0].is_cuda else [max(weights, key=lambda weight: weight.numel())] * 2
    for room in [torch.empty_like(weight) for weight in taken]:
        del room


def _writes(optimizer: torch.optim.Optimizer) -> int:
    """Return how often weights and state were written, and steps counted; making a state of zeros is no write.

    bitsandbytes writes past autograd on a GPU, but counts the step of a tensor before it does.
    """
    values = [value for each in optimizer.state.values() for value in each.values()]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    steps = sum(value for value in values if isinstance(value, int))
    return steps + sum(tensor._version for tensor in (*_trained(optimizer), *tensors))  # noqa: SLF001 - autograd's count


def _trained(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    return (weight for group in optimizer.param_groups for weight in group["params"])
