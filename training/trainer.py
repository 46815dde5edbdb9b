"""TRL's `SFTTrainer` as the loop, with our batches and our loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from training import adapter
from training.collator import Collator
from training.loss import score
from training.settings import Schedule

_OPTIMIZERS = {"adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit"}


class Trainer(SFTTrainer):  # type: ignore[misc]  # trl is untyped
    """`SFTTrainer` with the loss of `training.loss` on the CPU, and TRL's own fused one on a GPU; they are equal."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - the signature is transformers'
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """Return the loss of a micro-batch, divided by the labelled tokens of the whole step."""
        if inputs["input_ids"].is_cuda or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        scored = score(model, inputs)
        return scored.loss_sum / (scored.num_tokens if num_items_in_batch is None else num_items_in_batch)


def build(
    model: Any,
    *,
    processor: Any,
    collator: Collator,
    schedule: Schedule,
    seed: int,
    callbacks: Sequence[TrainerCallback],
    output_dir: Path,
) -> Trainer:
    """Return the trainer of a wrapped model, ready for `train()`.

    The data set holds only row numbers: the collator encodes each batch when it is needed.
    """
    rows = Dataset.from_dict({"example": list(range(schedule.num_examples))})
    trainer = Trainer(
        model=model,
        args=_arguments(schedule, seed=seed, output_dir=output_dir),
        data_collator=collator,
        train_dataset=rows,
        processing_class=processor,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)  # the supervisor reads events; nobody reads standard output
    adapter.keep_float32(model)
    return trainer


def _arguments(schedule: Schedule, *, seed: int, output_dir: Path) -> SFTConfig:
    return SFTConfig(
        output_dir=str(output_dir),
        # the schedule
        max_steps=schedule.total_steps,
        per_device_train_batch_size=schedule.micro_batch_size,
        gradient_accumulation_steps=schedule.accumulation_steps,
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
