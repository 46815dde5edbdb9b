"""A resolved schedule in the words of TRL's `SFTConfig`."""

from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import create_selective_checkpoint_contexts
from trl import SFTConfig

from training.settings import Schedule
from training.spec import Optimizer

_OPTIMIZERS: dict[Optimizer, str] = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
# Names of torch's attention by backend; not every build has all of them.
_ATTENTION = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
)


def arguments(schedule: Schedule, *, seed: int, output_dir: Path) -> SFTConfig:
    """Return the settings of TRL's `SFTTrainer` for a resolved schedule."""
    return SFTConfig(
        output_dir=str(output_dir),
        # the schedule
        max_steps=schedule.total_steps,
        per_device_train_batch_size=schedule.batch_size,  # a batch of the loop is a whole step (`trainer.py`)
        learning_rate=schedule.learning_rate,
        lr_scheduler_type=schedule.lr_scheduler,
        warmup_steps=schedule.warmup_steps,
        weight_decay=schedule.weight_decay,
        max_grad_norm=schedule.max_grad_norm,
        optim=_OPTIMIZERS[schedule.optimizer],
        neftune_noise_alpha=schedule.neftune_alpha or None,
        seed=seed,
        # the device
        use_cpu=not torch.cuda.is_available(),
        bf16=schedule.precision == "bf16",
        fp16=schedule.precision == "fp16",
        activation_checkpointing=schedule.gradient_checkpointing is not False,
        activation_checkpointing_kwargs=_checkpointing(schedule),
        dataloader_pin_memory=torch.cuda.is_available(),
        # our batches: never cut (TRL's default of 1024 tokens cuts SmolVLM's 1088 image tokens), never re-labelled
        max_length=None,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        # events instead of reports; a loss that is not finite must be seen, not averaged away
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        eval_strategy="no",
    )


def keep_attention() -> Any:
    """Return torch's contexts for a checkpointed layer whose attention is kept and whose rest is computed again."""
    packets = [getattr(torch.ops.aten, name, None) for name in _ATTENTION]
    kept = [packet.default for packet in packets if packet is not None]
    return create_selective_checkpoint_contexts(kept)  # type: ignore[no-untyped-call]


def _checkpointing(schedule: Schedule) -> dict[str, Any]:
    """Return what transformers is told of activation checkpointing; it takes `offload` out of it for itself.

    TRL 1.16 has a `selective` of its own, which wraps a method of the `PeftModel` that transformers 5.23 no longer
    calls: everything is computed again, and nothing says so. Its `activation_offloading` ends on a CPU with an
    AttributeError; transformers' `offload` computes the same numbers on any device.
    """
    told: dict[str, Any] = {"use_reentrant": False, "offload": schedule.activation_offload}
    if schedule.gradient_checkpointing == "selective":
        told["context_fn"] = keep_attention
    return told
