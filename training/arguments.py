"""A resolved schedule in the words of TRL's `SFTConfig`."""

from pathlib import Path

import torch
from trl import SFTConfig

from training.settings import Schedule

_OPTIMIZERS = {"adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit"}


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
        seed=seed,
        # the device
        use_cpu=not torch.cuda.is_available(),
        bf16=schedule.precision == "bf16",
        fp16=schedule.precision == "fp16",
        activation_checkpointing=schedule.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
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
