"""LoRA+: the same optimizer with another learning rate for LoRA's B (Hayou et al., arXiv 2402.12354)."""

from typing import Any

import torch
from peft.optimizers import create_loraplus_optimizer
from transformers import Trainer
from trl import SFTConfig


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
