"""What `auto` comes to, and the arithmetic of steps. Torch-free, so that a plan can show the same numbers."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

from training.batching import Budget, num_steps_per_epoch
from training.spec import Hyperparameters, Optimizer, Scheduler
from vlm.precision import Precision

DEFAULT_EPOCHS = 3.0
DEFAULT_BATCH_SIZE = 16
DEFAULT_LEARNING_RATE = 2e-4  # QLoRA, table 9 (arXiv 2305.14314): 2e-4 for models up to 13 B
DEFAULT_WARMUP_RATIO = 0.03  # the same table
# Padded tokens of a pass. More keep a CPU no busier, and their activations are what its memory goes to (0.4 MB a token at
# the widths of SmolVLM-256M and ten layers); a GPU needs more to be busy, and checkpoints them.
CPU_MICRO_BATCH_TOKENS, GPU_MICRO_BATCH_TOKENS = 2048, 8192
PACK_TOKENS = 1024  # attention over a packed row is dense: its cost grows with the square of this
TRAINS_VISION = (
    "the vision tower is trained, so what it makes of an image changes with every step"  # no feature is kept
)
MIN_AUTO_CHECKPOINT_STEPS, MAX_AUTO_CHECKPOINT_STEPS = 10, 500

_OF_EACH_RUN = frozenset({"epochs", "max_steps", "checkpoint_every"})  # follow from the data, or may differ

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
        loraplus_lr_ratio: Learning rate of LoRA's B over that of A; 1 is no LoRA+.
        neftune_alpha: Noise on the embeddings of tokens; 0 is none.
        warnings: What was asked for and is not done, each with the reason; for the user to see.
        checkpoint_every: Steps from one checkpoint to the next; the end of an epoch is saved as well.
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
    lr_scheduler: Scheduler
    warmup_ratio: float
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    optimizer: Optimizer
    loraplus_lr_ratio: float
    neftune_alpha: float
    gradient_checkpointing: bool | Literal["selective"]
    activation_offload: bool
    compact_memory: bool
    precision: Precision
    checkpoint_every: int
    warnings: tuple[str, ...] = ()

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
        return {name: value for name, value in asdict(self).items() if name != "warnings"}

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
    asked: Hyperparameters,
    *,
    num_examples: int,
    precision: Precision,
    on_gpu: bool,
    can_pack: bool,
    no_features: str | None = None,
) -> Schedule:
    """Return the schedule that `asked` means for this many training examples on this device.

    Args:
        asked: What the job says; `"auto"` where it leaves the choice to us.
        num_examples: Rows of the train split, at least one.
        precision: What to compute in (`training.device.choose_precision`).
        on_gpu: Whether the run has a GPU; memory is short there and gradient checkpointing pays.
        can_pack: Whether the base takes several examples in one row.
        no_features: Why no feature of the vision tower can be kept; None where they can.
    """
    batch_size = _or(asked.batch_size, _auto_batch_size(asked))
    micro_batch_tokens = _micro_batch_tokens(asked, on_gpu=on_gpu)
    per_epoch = num_steps_per_epoch(num_examples, batch_size)
    if asked.max_steps != "auto":
        total, epochs = asked.max_steps, asked.max_steps / per_epoch
    else:
        epochs = _or(asked.epochs, DEFAULT_EPOCHS)
        total = math.ceil(epochs * per_epoch)
    feasible, warnings = _feasible(asked, on_gpu=on_gpu, can_pack=can_pack, no_features=no_features)
    warmup_ratio = _or(feasible.warmup_ratio, DEFAULT_WARMUP_RATIO)
    return Schedule(
        num_examples=num_examples,
        batch_size=batch_size,
        micro_batch_size=_or(asked.micro_batch_size, batch_size),
        micro_batch_tokens=micro_batch_tokens,
        packing=micro_batch_tokens is not None and feasible.packing is not False,
        feature_cache=feasible.feature_cache is not False,
        epochs=epochs,
        steps_per_epoch=per_epoch,
        total_steps=total,
        learning_rate=_or(asked.learning_rate, DEFAULT_LEARNING_RATE),
        lr_scheduler=_or(feasible.lr_scheduler, "linear"),
        warmup_ratio=warmup_ratio,
        warmup_steps=int(warmup_ratio * total),  # down: a single step of warm-up has a rate of zero
        weight_decay=_or(asked.weight_decay, 0.0),
        max_grad_norm=_or(asked.max_grad_norm, 1.0),
        optimizer=_or(feasible.optimizer, "adamw"),
        loraplus_lr_ratio=_or(feasible.loraplus_lr_ratio, 1.0),
        neftune_alpha=_or(feasible.neftune_alpha, 0.0),
        gradient_checkpointing=_or(feasible.gradient_checkpointing, on_gpu),
        activation_offload=feasible.activation_offload is True,
        compact_memory=feasible.compact_memory is True and not on_gpu,
        precision=precision,
        checkpoint_every=_or(asked.checkpoint_every, _auto_checkpoint_every(total)),
        warnings=warnings,
    )


def continued(schedule: Schedule, asked: Hyperparameters, saved: Mapping[str, Any]) -> Schedule:
    """Return the schedule of a run that goes on: `auto` means what it meant where the run began, on other hardware too.

    Args:
        schedule: What `asked` means here.
        asked: What the job says.
        saved: The hyperparameters that a checkpoint of the run was made with.
    """
    left_to_us = [name for name, value in asked if value == "auto" and name not in _OF_EACH_RUN]
    return replace(schedule, **{name: saved[name] for name in left_to_us if name in saved})


def _feasible(
    asked: Hyperparameters, *, on_gpu: bool, can_pack: bool, no_features: str | None
) -> tuple[Hyperparameters, tuple[str, ...]]:
    """Return what can be done of what was asked, and a sentence for each thing that cannot."""
    changes = [*_limits_of_cpu(asked)] if not on_gpu else []
    changes += _limits_of_run(asked, can_pack=can_pack, no_features=no_features)
    instead = {name: value for name, value, _ in changes}
    return asked.model_copy(update=instead), tuple(sentence for *_, sentence in changes if sentence is not None)


_Change = tuple[str, Any, str | None]  # a hyperparameter, its value instead, and what the user hears of it


def _limits_of_cpu(asked: Hyperparameters) -> Iterator[_Change]:
    if asked.optimizer.startswith("paged_"):
        # bitsandbytes pages a GPU's memory out to the host's; on a CPU it does not, and tells only a log
        plain = asked.optimizer.removeprefix("paged_")
        yield "optimizer", plain, f"hyperparameters.optimizer {asked.optimizer} needs a GPU; this run uses {plain}."
    if asked.activation_offload is True:
        reason = "hyperparameters.activation_offload needs a GPU; activations are in the host's memory already."
        yield "activation_offload", False, reason


def _limits_of_run(asked: Hyperparameters, *, can_pack: bool, no_features: str | None) -> Iterator[_Change]:
    if asked.lr_scheduler == "constant":
        reason = "hyperparameters.warmup_ratio needs lr_scheduler constant_with_warmup; constant has none."
        yield "warmup_ratio", 0.0, reason if asked.warmup_ratio not in ("auto", 0.0) else None
    if not can_pack:
        reason = "hyperparameters.packing: this base model takes one example in a row; nothing is packed."
        yield "packing", False, reason if asked.packing is True else None
    elif asked.packing == "auto" and asked.neftune_alpha not in ("auto", 0.0):
        yield "packing", False, None  # NEFTune's noise falls with the length of a row, which is to be the example's
    if no_features is not None:
        reason = f"hyperparameters.feature_cache: no feature is kept, because {no_features}."
        yield "feature_cache", False, reason if asked.feature_cache is True else None


def _micro_batch_tokens(asked: Hyperparameters, *, on_gpu: bool) -> int | None:
    """Return the bound on tokens; none where the job counts in examples and does not ask for packing."""
    counts_examples = asked.micro_batch_size != "auto" and asked.packing is not True
    best = GPU_MICRO_BATCH_TOKENS if on_gpu else CPU_MICRO_BATCH_TOKENS
    default = None if counts_examples else best
    return default if asked.micro_batch_tokens == "auto" else asked.micro_batch_tokens


def _auto_batch_size(asked: Hyperparameters) -> int:
    """Keep the batch a multiple of a micro-batch that was asked for."""
    micro = asked.micro_batch_size
    return DEFAULT_BATCH_SIZE if micro == "auto" else micro * math.ceil(DEFAULT_BATCH_SIZE / micro)


def _auto_checkpoint_every(total_steps: int) -> int:
    """Save about twenty times in a run: a killed run loses little, and saving takes little beside so many steps."""
    return min(MAX_AUTO_CHECKPOINT_STEPS, max(MIN_AUTO_CHECKPOINT_STEPS, math.ceil(total_steps / 20)))


def _or(value: _T | Literal["auto"], default: _T) -> _T:
    return default if value == "auto" else value
