"""What the loop tells the supervisor at every step, and where it hears that it must stop."""

import math
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl

from core.child import Child
from core.errors import FailureCode, WorkFailed
from core.events import Metric, Phase
from training.eta import Eta
from training.evaluate import Evaluation, Evaluator
from training.peaks import Phases
from training.settings import Schedule


class Progress(TrainerCallback):
    """Emits one metric per optimizer step, validates at the end of each epoch, and stops when asked to.

    Attributes:
        step: The last finished step.
        loss: Its loss; None before the first.
        evaluation: The last validation.
    """

    def __init__(
        self,
        child: Child,
        schedule: Schedule,
        evaluator: Evaluator | None,
        phases: Phases,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._child = child
        self._schedule = schedule
        self._evaluator = evaluator
        self._phases = phases
        self._eta = Eta(schedule, num_validation=len(evaluator.lengths) if evaluator else 0, clock=clock)
        self.step = 0
        self.loss: float | None = None
        self.evaluation: Evaluation | None = None

    def resume(self, step: int, loss: float | None) -> None:
        """Go on after this step, which had this loss; the rate begins anew."""
        self.step = step
        self.loss = loss

    def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
        """Start the clock; a run that goes on at the end of an epoch first makes up for its validation."""
        self._eta.begin(self.step)
        if self.step and self.step % self._schedule.steps_per_epoch == 0:
            self._validate_between_epochs(kwargs["model"])

    def on_step_end(self, *event: Any, **_: Any) -> None:
        """Count the step, and stop after it when asked to; `training.saver` saves it then."""
        self.step = int(event[1].global_step)
        self._eta.end_step()
        if self._child.stop.is_set():
            _control(event).should_training_stop = True

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        """Emit the step's metric.

        Raises:
            WorkFailed: The loss is not a number any more.
        """
        if logs is None or "loss" not in logs:  # the summary at the end of training
            return
        self.loss = logs["loss"]
        self._emit(
            loss=self.loss,
            learning_rate=logs["learning_rate"],
            grad_norm=logs.get("grad_norm"),
            examples_per_s=self._eta.examples_per_s,
            eta_s=self._eta.remaining_s,
        )
        if not math.isfinite(self.loss):
            raise diverged(f"The loss at step {self.step} is {self.loss}.", self._schedule)

    def on_epoch_end(self, *_: Any, **kwargs: Any) -> None:
        """Validate, except after an epoch that was broken off, and after the last: that one is the final validation."""
        if not self._child.stop.is_set() and self.step < self._schedule.total_steps:
            self._validate_between_epochs(kwargs["model"])

    def validate(self, model: Any) -> None:
        """Run over the validation split, if there is one, and emit what it scored."""
        if self._evaluator is None:
            return
        self._phases.enter(Phase.EVALUATING)
        self.evaluation = self._evaluator.run(model, check_stop=self._child.check_stop)
        self._emit(**self.evaluation.document())

    def _validate_between_epochs(self, model: Any) -> None:
        self.validate(model)
        if self._evaluator is not None:
            self._eta.end_evaluation()
        self._phases.enter(Phase.TRAINING)

    def _emit(self, **figures: float | None) -> None:
        self._child.events.emit(
            Metric(
                data={
                    "step": self.step,
                    "total_steps": self._schedule.total_steps,
                    "epoch": self.step / self._schedule.steps_per_epoch,
                    **figures,
                }
            )
        )


def diverged(detail: str, schedule: Schedule) -> WorkFailed:
    """Return the failure of a run whose numbers left the finite ones."""
    return WorkFailed(
        FailureCode.DIVERGED,
        detail,
        remedy=f"Lower hyperparameters.learning_rate (now {schedule.learning_rate:g}), for example to a third of it.",
    )


def _control(event: tuple[Any, ...]) -> TrainerControl:
    """Return the third of (arguments, state, control), which every hook gets."""
    control = event[2]
    assert isinstance(control, TrainerControl)
    return control
