"""What `auto` comes to, and the arithmetic of steps. Torch-free, so that a plan can show the same numbers."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from training.spec import Hyperparameters
from vlm.precision import Precision

DEFAULT_EPOCHS = 3.0
DEFAULT_BATCH_SIZE = 16
DEFAULT_LEARNING_RATE = 2e-4  # QLoRA, table 9 (arXiv 2305.14314): 2e-4 for models up to 13 B
DEFAULT_WARMUP_RATIO = 0.03  # the same table
MAX_AUTO_MICRO_BATCH_SIZE = 16
MAX_AUTO_MICRO_BATCH_TOKENS = 4096  # padded; keeps 17-tile images (1,100 tokens and more) at two or three a pass

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The resolved hyperparameters of one run over `num_examples` examples.

    Attributes:
        batch_size: Examples per optimizer step.
        micro_batch_size: Examples per forward pass.
        accumulation_steps: Forward passes per optimizer step.
        steps_per_epoch: Optimizer steps per epoch; the last one of an epoch may hold fewer examples.
        warmup_steps: Steps over which the learning rate rises from zero.
    """

    num_examples: int
    batch_size: int
    micro_batch_size: int
    accumulation_steps: int
    epochs: float
    steps_per_epoch: int
    total_steps: int
    learning_rate: float
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    warmup_ratio: float
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    optimizer: Literal["adamw", "adamw_8bit"]
    gradient_checkpointing: bool
    precision: Precision

    def num_trained(self, step: int) -> int:
        """Return how many examples the first `step` steps took, repeats included."""
        epochs, rest = divmod(step, self.steps_per_epoch)
        return epochs * self.num_examples + min(rest * self.batch_size, self.num_examples)

    def document(self) -> dict[str, Any]:
        """Return the settings as JSON."""
        return asdict(self)

    def sentence(self) -> str:
        """Return the schedule in words."""
        return (
            f"{self.total_steps:,} steps of {self.batch_size} examples ({self.accumulation_steps} x "
            f"{self.micro_batch_size}), {self.epochs:g} epochs, learning rate {self.learning_rate:g}, {self.precision}."
        )


def resolve(
    asked: Hyperparameters, *, num_examples: int, longest_tokens: int, precision: Precision, on_gpu: bool
) -> Schedule:
    """Return the schedule that `asked` means for this many training examples on this device.

    Args:
        asked: What the job says; `"auto"` where it leaves the choice to us.
        num_examples: Rows of the train split, at least one.
        longest_tokens: Tokens of the longest of them.
        precision: What to compute in (`training.device.choose_precision`).
        on_gpu: Whether the run has a GPU; memory is short there and gradient checkpointing pays.
    """
    batch_size = _or(asked.batch_size, _auto_batch_size(asked))
    that_fit = max(1, min(MAX_AUTO_MICRO_BATCH_SIZE, MAX_AUTO_MICRO_BATCH_TOKENS // longest_tokens))
    micro = _or(asked.micro_batch_size, largest_divisor(batch_size, at_most=that_fit))
    accumulation = batch_size // micro
    per_epoch = math.ceil(math.ceil(num_examples / micro) / accumulation)
    if asked.max_steps != "auto":
        total, epochs = asked.max_steps, asked.max_steps / per_epoch
    else:
        epochs = _or(asked.epochs, DEFAULT_EPOCHS)
        total = math.ceil(epochs * per_epoch)
    warmup_ratio = _or(asked.warmup_ratio, DEFAULT_WARMUP_RATIO)
    return Schedule(
        num_examples=num_examples,
        batch_size=batch_size,
        micro_batch_size=micro,
        accumulation_steps=accumulation,
        epochs=epochs,
        steps_per_epoch=per_epoch,
        total_steps=total,
        learning_rate=_or(asked.learning_rate, DEFAULT_LEARNING_RATE),
        lr_scheduler=_or(asked.lr_scheduler, "linear"),
        warmup_ratio=warmup_ratio,
        warmup_steps=int(warmup_ratio * total),  # down: a single step of warm-up has a rate of zero
        weight_decay=_or(asked.weight_decay, 0.0),
        max_grad_norm=_or(asked.max_grad_norm, 1.0),
        optimizer=_or(asked.optimizer, "adamw"),
        gradient_checkpointing=_or(asked.gradient_checkpointing, on_gpu),
        precision=precision,
    )


def largest_divisor(number: int, *, at_most: int) -> int:
    """Return the largest divisor of `number` that is not above `at_most`."""
    return next(divisor for divisor in range(min(number, at_most), 0, -1) if number % divisor == 0)


def _auto_batch_size(asked: Hyperparameters) -> int:
    """Keep the batch a multiple of a micro-batch that was asked for."""
    micro = asked.micro_batch_size
    return DEFAULT_BATCH_SIZE if micro == "auto" else micro * math.ceil(DEFAULT_BATCH_SIZE / micro)


def _or(value: _T | Literal["auto"], default: _T) -> _T:
    return default if value == "auto" else value
