"""TRL's `SFTTrainer` as the loop, with our batches and our loss.

One batch of the loop is one optimizer step: `training_step` takes the step's examples, plans its micro-batches
(`batching.py`), makes each when it is its turn (`collator.py`), and adds up their gradients (`loss.py`).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from trl import SFTTrainer

from training import adapter
from training.arguments import arguments
from training.collator import Collator
from training.distributed import ALONE, Group, shard, trains_beside_layers
from training.loss import score
from training.optimizer import guard, loraplus
from training.random_state import RandomState
from training.recovery import Attempted, Passes, out_of_memory
from training.sampler import StepLoader
from training.settings import Schedule
from vlm.measure import Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What the optimizer steps of a run are made of.

    Attributes:
        collator: Makes the batch of a micro-batch.
        measures: The size of every example.
        passes: What a forward pass may hold.
        check_stop: Raises when the run must stop; asked before each micro-batch, because a step can be long.
        group: The processes that share each step.
    """

    collator: Collator
    measures: Sequence[Measure]
    passes: Passes
    check_stop: Callable[[], None]
    group: Group = ALONE


@dataclass(frozen=True, slots=True)
class _Started:
    """Where the present step began."""

    model: Any
    examples: Sequence[int]
    random_state: RandomState


class Trainer(SFTTrainer):  # type: ignore[misc]  # trl is untyped
    """`SFTTrainer` whose batches are whole optimizer steps."""

    optimizer: Any
    _started: "_Started"
    _attempts: list[Attempted]

    def __init__(self, *, steps: Steps, schedule: Schedule, **rest: Any) -> None:
        super().__init__(**rest)
        self._steps = steps
        self._schedule = schedule
        self._lengths = [measure.tokens for measure in steps.measures]

    def get_train_dataloader(self) -> StepLoader:
        """Return the examples of each step."""
        return StepLoader(self._schedule.num_examples, self._schedule.batch_size, seed=self.args.seed)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make the optimizer; with LoRA+ its groups have two learning rates."""
        lr_ratio = self._schedule.loraplus_lr_ratio
        if lr_ratio != 1 and self.optimizer is None:
            self.optimizer = loraplus(model or self.model, self.args, lr_ratio=lr_ratio)
        made: torch.optim.Optimizer = super().create_optimizer(model)
        if self._steps.group.size == 1 and self._schedule.precision != "fp16":  # whose scaler counts each step once
            guard(made, redo=self._redo)
        return made

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Add up the gradients of a step, and return its loss: the mean over its labelled tokens.

        A step that memory does not hold is done again from its beginning, in smaller passes. Of several processes the
        others would wait for this one in another place, so there the run fails.
        """
        del num_items_in_batch  # transformers cannot count what is not made yet
        model.train()
        self._started = _Started(model, inputs["examples"], RandomState.now())
        if self._steps.group.size > 1:
            return self._add_up(model, inputs["examples"])
        return self._until_it_fits(self._started)

    def _until_it_fits(self, started: "_Started") -> torch.Tensor:
        while True:
            with out_of_memory():
                return self._add_up(started.model, started.examples)
            self._begin_again(started, self._attempts[-1], doing="computing the gradient of")

    def _begin_again(self, started: "_Started", attempted: Attempted, *, doing: str) -> None:
        """Make the passes smaller and put everything back to where the step began."""
        started.model.zero_grad(set_to_none=True)
        self._steps.passes.shrink(attempted, doing=f"{doing} step {self.state.global_step + 1:,}")
        started.random_state.restore()

    def _redo(self) -> None:
        """Compute the gradient of the present step again, in smaller passes, for an optimizer that found no room."""
        largest = max(self._attempts, key=lambda each: each.num_tokens)
        self._begin_again(self._started, largest, doing="updating the weights in")
        self._until_it_fits(self._started)
        if self.args.max_grad_norm > 0:
            self._clip_grad_norm(self._started.model)

    def _add_up(self, model: Any, examples: Sequence[int]) -> torch.Tensor:
        num_tokens = sum(self._steps.measures[example].labelled_tokens for example in examples)
        group = self._steps.group
        micro_batches = group.plan(examples, self._lengths, self._steps.passes.budget)
        losses, self._attempts = [], []
        for number, (micro_batch, counts) in enumerate(micro_batches, start=1):
            self._steps.check_stop()
            self._attempts.append(Attempted.of(micro_batch, self._lengths))
            batch = self._steps.collator.batch(micro_batch)
            with self._sync(model, is_last=number == len(micro_batches)):
                with self.compute_loss_context_manager():
                    loss = self.compute_loss(model, batch, num_items_in_batch=num_tokens) * (group.size * counts)
                self.accelerator.backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).sum().to(self.args.device)  # the last layers may lie on another

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - the signature is transformers'
        num_items_in_batch: int | None = None,
    ) -> torch.Tensor:
        """Return the loss of a micro-batch, divided by the labelled tokens of the whole step."""
        assert not return_outputs, "validation goes through `evaluate.py`"
        assert num_items_in_batch
        return score(model, inputs).loss_sum / num_items_in_batch

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: transformers estimates from tokens that are not made yet; `benchmarks` counts for real."""
        del inputs
        return 0

    def write_state(self, folder: Path) -> None:
        """Write what this process knows of the run's state into a checkpoint's folder, as `train()` reads it."""
        self.state.log_history.clear()  # grows with every step, and nobody reads it
        self._save_optimizer_and_scheduler(str(folder))
        self._save_scaler(str(folder))
        self._save_rng_state(str(folder))
        if self.args.should_save:
            self.accelerator.unwrap_model(self.model).save_pretrained(str(folder), save_embedding_layers=False)
            (folder / "README.md").unlink()  # PEFT's empty model card
            self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def load_weights(self, folder: Path) -> None:
        """Load the adapter of a checkpoint, and nothing else of it."""
        self._load_from_checkpoint(str(folder))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Do nothing: transformers would write in place. `training.saver` saves when `on_save` is called next."""

    def _sync(self, model: Any, *, is_last: bool) -> AbstractContextManager[Any]:
        """Return the context of a micro-batch: processes add up their gradients at the last one only."""
        return nullcontext() if is_last else self._steps.group.local_gradients(model)


def build(
    model: Any,
    *,
    processor: Any,
    steps: Steps,
    schedule: Schedule,
    seed: int,
    callbacks: Sequence[TrainerCallback],
    output_dir: Path,
) -> Trainer:
    """Return the trainer of a wrapped model, ready for `train()`."""
    settings = arguments(schedule, seed=seed, output_dir=output_dir)
    settings.ddp_find_unused_parameters = trains_beside_layers(model)  # TRL: always; it walks the graph in every step
    trainer = Trainer(
        steps=steps,
        schedule=schedule,
        model=model,
        args=settings,
        data_collator=_never,
        train_dataset=Dataset.from_dict({"example": [0]}),  # TRL looks at a first row; `StepLoader` gives the examples
        processing_class=processor,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)  # the supervisor reads events; nobody reads standard output
    adapter.keep_float32(model)
    if steps.group.is_sharded:
        shard(model)
        trainer.is_distributed_loading_by_transformers = True  # so that it leaves the gradients to the layers
    steps.group.seed_dropout(seed)
    steps.passes.can_checkpoint(partial(checkpoint_activations, trainer))
    return trainer


def checkpoint_activations(trainer: Trainer) -> None:
    """Have activations computed again instead of kept, from the next pass on."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    model.enable_input_require_grads()
    model.activation_checkpointing_enable({"use_reentrant": False})


def _never(rows: Any) -> Any:
    """Stand for TRL's collator, which nobody calls."""
    raise AssertionError(rows)
