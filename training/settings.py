"""What `auto` comes to, and the arithmetic of steps. Torch-free, so that a plan can show the same numbers."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from training.batching import Budget, num_steps_per_epoch
from training.spec import Hyperparameters
from vlm.precision import Precision

DEFAULT_EPOCHS = 3.0
DEFAULT_BATCH_SIZE = 16
DEFAULT_LEARNING_RATE = 2e-4  # QLoRA, table 9 (arXiv 2305.14314): 2e-4 for models up to 13 B
DEFAULT_WARMUP_RATIO = 0.03  # the same table
DEFAULT_MICRO_BATCH_TOKENS = 4096  # padded; keeps 17-tile images (1,100 tokens and more) at two or three a pass
PACK_TOKENS = 1024  # attention over a packed row is dense: its cost grows with the square of this

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The resolved hyperparameters of one run over `num_examples` examples.

    Attributes:
        batch_size: Examples per optimizer step.
        micro_batch_size: The most examples of a forward pass.
        micro_batch_tokens: The most tokens of a forward pass, padding included; None: only examples are counted.
        packing: Examples lie behind each other in rows of up to `PACK_TOKENS` tokens.
        feature_cache: What the frozen vision tower makes of an image is kept.
        steps_per_epoch: Optimizer steps per epoch; the last one of an epoch may hold fewer examples.
        warmup_steps: Steps over which the learning rate rises from zero.
    """

    num_examples: int
    batch_size: int
    micro_batch_size: int
    micro_batch_tokens: int | None
    packing: bool
    feature_cache: bool
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

    @property
    def budget(self) -> Budget:
        """Return what a forward pass may hold."""
        return Budget(
            num_examples=self.micro_batch_size,
            num_tokens=self.micro_batch_tokens,
            pack_tokens=PACK_TOKENS if self.packing else None,
        )

    def document(self) -> dict[str, Any]:
        """Return the settings as JSON."""
        return asdict(self)

    def sentence(self) -> str:
        """Return the schedule in words."""
        passes = f"{self.micro_batch_size} a pass"
        if self.micro_batch_tokens is not None:
            passes = f"up to {self.micro_batch_tokens:,} tokens a pass{', packed' if self.packing else ''}"
        return (
            f"{self.total_steps:,} steps of {self.batch_size} examples ({passes}), {self.epochs:g} epochs, "
            f"learning rate {self.learning_rate:g}, {self.precision}."
        )


def resolve(
    asked: Hyperparameters, *, num_examples: int, precision: Precision, on_gpu: bool, can_pack: bool
) -> Schedule:
    """Return the schedule that `asked` means for this many training examples on this device.

    Args:
        asked: What the job says; `"auto"` where it leaves the choice to us.
        num_examples: Rows of the train split, at least one.
        precision: What to compute in (`training.device.choose_precision`).
        on_gpu: Whether the run has a GPU; memory is short there and gradient checkpointing pays.
        can_pack: Whether the base takes several examples in one row.
    """
    batch_size = _or(asked.batch_size, _auto_batch_size(asked))
    micro_batch_tokens = _micro_batch_tokens(asked)
    per_epoch = num_steps_per_epoch(num_examples, batch_size)
    if asked.max_steps != "auto":
        total, epochs = asked.max_steps, asked.max_steps / per_epoch
    else:
        epochs = _or(asked.epochs, DEFAULT_EPOCHS)
        total = math.ceil(epochs * per_epoch)
    warmup_ratio = _or(asked.warmup_ratio, DEFAULT_WARMUP_RATIO)
    return Schedule(
        num_examples=num_examples,
        batch_size=batch_size,
        micro_batch_size=_or(asked.micro_batch_size, batch_size),
        micro_batch_tokens=micro_batch_tokens,
        packing=micro_batch_tokens is not None and can_pack and asked.packing is not False,
        feature_cache=asked.feature_cache is not False,
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


def _micro_batch_tokens(asked: Hyperparameters) -> int | None:
    """Return the bound on tokens; none where the job counts in examples and does not ask for packing."""
    counts_examples = asked.micro_batch_size != "auto" and asked.packing is not True
    default = None if counts_examples else DEFAULT_MICRO_BATCH_TOKENS
    return default if asked.micro_batch_tokens == "auto" else asked.micro_batch_tokens


def _auto_batch_size(asked: Hyperparameters) -> int:
    """Keep the batch a multiple of a micro-batch that was asked for."""
    micro = asked.micro_batch_size
    return DEFAULT_BATCH_SIZE if micro == "auto" else micro * math.ceil(DEFAULT_BATCH_SIZE / micro)


def _or(value: _T | Literal["auto"], default: _T) -> _T:
    return default if value == "auto" else value
