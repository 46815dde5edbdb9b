"""TRL's `SFTTrainer` as the loop, with our batches and our loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer

from training import adapter
from training.arguments import arguments
from training.collator import Collator
from training.loss import score
from training.settings import Schedule


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
        args=arguments(schedule, seed=seed, output_dir=output_dir),
        data_collator=collator,
        train_dataset=rows,
        processing_class=processor,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)  # the supervisor reads events; nobody reads standard output
    adapter.keep_float32(model)
    return trainer
