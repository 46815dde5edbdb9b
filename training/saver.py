"""When a run is saved, and how it goes on from what was saved: exactly, as if nothing had happened.

A checkpoint of step k holds the run as it stood between step k and whatever comes next, the validation at the end of an
epoch included. What was told before it is never told again; what was told after it is told again, with the same figures.
"""

from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerControl, TrainerState

from core import events
from core.child import Child, StopRequested
from core.errors import FailureCode, WorkFailed
from training import checkpoint
from training.checkpoint import Checkpoint, Identity, Record
from training.export import WEIGHTS_FILE
from training.progress import Progress, diverged
from training.random_state import RandomState
from training.settings import Schedule
from training.trainer import Trainer


class Saver(TrainerCallback):
    """Saves at the end of each epoch, every `schedule.checkpoint_every` steps, and when the run is told to stop."""

    def __init__(
        self,
        child: Child,
        schedule: Schedule,
        progress: Progress,
        *,
        identity: Identity,
        versions: dict[str, str | None],
        resumed: Checkpoint | None = None,
        is_sharded: bool = False,
    ) -> None:
        self._child = child
        self._schedule = schedule
        self._progress = progress
        self._identity = identity
        self._versions = versions
        self._resumed = resumed
        self._is_sharded = is_sharded  # each process holds a part of the optimizer's state: nothing is saved
        self._folder = child.staging / checkpoint.CHECKPOINTS_FOLDER
        self._saved_step = resumed.record.step if resumed else 0
        self._after_step: RandomState | None = None
        self._loop: Trainer | None = None

    def train(self, loop: Trainer) -> None:
        """Run the loop, from the checkpoint if there is one.

        Raises:
            StopRequested: The run was told to stop; what it had learned is saved.
        """
        self._loop = loop
        self._begin(loop)
        try:
            if self._resumed is None:
                loop.train()
            elif self._resumed.record.step < self._schedule.total_steps:
                loop.train(resume_from_checkpoint=str(self._resumed.path))
            else:  # transformers would train one step more if the run ends within an epoch
                loop.load_weights(self._resumed.path)
                check_loaded(loop.model, self._resumed.path)
            self._child.check_stop()
        except StopRequested:
            try:
                self._save_last_step(loop)
            except WorkFailed as failed:  # it was asked to end, and ends; what it loses is told
                self._child.events.log(f"The last step is not saved. {failed.detail}", level="warning")
            raise

    def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
        """See that the weights arrived: PEFT can leave them aside without a word (lerobot #3459)."""
        if self._resumed is not None:
            check_loaded(kwargs["model"], self._resumed.path)

    def on_step_end(self, *event: Any, **_: Any) -> None:
        """Remember the random numbers, and have the step saved if its time has come."""
        state, control = event[1], event[2]
        assert isinstance(state, TrainerState)
        assert isinstance(control, TrainerControl)
        self._after_step = RandomState.now()
        step, schedule = state.global_step, self._schedule
        if self._is_sharded:
            return
        is_due = step % schedule.checkpoint_every == 0 or step % schedule.steps_per_epoch == 0
        control.should_save = is_due or step == schedule.total_steps

    def on_save(self, *_: Any, **__: Any) -> None:
        """Save the step; transformers calls this after the step's metric, and before the epoch's end."""
        assert self._loop is not None
        self._save(self._loop)

    def _begin(self, loop: Trainer) -> None:
        if self._is_sharded:
            self._child.events.log(
                "With resources.parallelism fsdp no checkpoints are saved; ddp saves them.", level="warning"
            )
        record = self._resumed.record if self._resumed else None
        is_own = self._resumed is not None and self._resumed.path.parent.resolve() == self._folder.resolve()
        if loop.args.should_save:
            checkpoint.sweep(self._folder, last_step=self._saved_step if is_own else 0)
        loop.accelerator.wait_for_everyone()
        if record is not None:
            self._progress.resume(record.step, record.loss)
            self._child.events.log(f"The run goes on after step {record.step:,} of {self._schedule.total_steps:,}.")

    def _save_last_step(self, loop: Trainer) -> None:
        """Save a run that was stopped, perhaps within a step: as it stood after the last whole step of this process."""
        if not self._is_sharded and self._after_step is not None and loop.state.global_step != self._saved_step:
            self._after_step.restore()
            self._save(loop)

    def _save(self, loop: Trainer) -> None:
        step = int(loop.state.global_step)
        with checkpoint.storing(step):
            part = checkpoint.begin(self._folder, step)
            loop.write_state(part)
        loop.accelerator.wait_for_everyone()
        if loop.args.should_save:
            self._commit(part, step)
        loop.accelerator.wait_for_everyone()
        self._saved_step = step

    def _commit(self, part: Path, step: int) -> None:
        self._check_finite(part, step)
        epoch, _ = divmod(step, self._schedule.steps_per_epoch)
        record = Record(
            step=step,
            epoch=epoch,
            examples=self._schedule.num_trained(step) - epoch * self._schedule.num_examples,
            loss=self._progress.loss,
            identity=self._identity,
            versions=self._versions,
        )
        saved = checkpoint.commit(part, record)
        self._child.events.emit(
            events.Checkpoint(
                step=step,
                path=str(saved.path.relative_to(self._child.staging)),
                sha256=saved.manifest.sha256,
                size_bytes=saved.manifest.size_bytes,
            )
        )

    def _check_finite(self, part: Path, step: int) -> None:
        """Refuse weights that would end every attempt to go on; the loss shows them one step later."""
        for name, tensor in load_file(part / WEIGHTS_FILE).items():
            if not bool(torch.isfinite(tensor).all()):
                raise diverged(f"After step {step} {name} holds numbers that are not finite.", self._schedule)


def check_loaded(model: Any, folder: Path) -> None:
    """Compare the adapter in memory with the file, bit for bit.

    Raises:
        WorkFailed: They differ in a name, a type or a number.
    """
    saved = load_file(folder / WEIGHTS_FILE)
    present = get_peft_model_state_dict(model, save_embedding_layers=False)  # else it looks for the base on the Hub
    same = saved.keys() == present.keys() and all(
        tensor.dtype == present[name].dtype and torch.equal(tensor, present[name].detach().cpu())
        for name, tensor in saved.items()
    )
    if not same:
        raise WorkFailed(
            FailureCode.INTERNAL,
            "The adapter of the checkpoint did not arrive in the model.",
            remedy="Report it with the job's id; a new job begins at its first step.",
        )
