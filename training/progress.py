"""What the loop tells the supervisor at every step, and where it hears that it must stop."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl

from core.child import Child
from core.errors import FailureCode, WorkFailed
from core.events import Metric, Phase, PhaseChanged
from training.evaluate import Evaluation, Evaluator
from training.settings import Schedule

_RATE_WINDOW_STEPS = 20


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
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._child = child
        self._schedule = schedule
        self._evaluator = evaluator
        self._rate = Rate(clock)
        self.step = 0
        self.loss: float | None = None
        self.evaluation: Evaluation | None = None

    def resume(self, step: int, loss: float | None) -> None:
        """Go on after this step, which had this loss; the rate begins anew."""
        self.step = step
        self.loss = loss

    def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
        """Start the clock; a run that goes on at the end of an epoch first makes up for its validation."""
        if self.step and self.step % self._schedule.steps_per_epoch == 0:
            self._validate_between_epochs(kwargs["model"])
        self._rate.restart()

    def on_step_end(self, *event: Any, **_: Any) -> None:
        """Count the step, and stop after it when asked to; `training.saver` saves it then."""
        self.step = int(event[1].global_step)
        self._rate.add(self._schedule.num_trained(self.step) - self._schedule.num_trained(self.step - 1))
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
        remaining = self._schedule.num_trained(self._schedule.total_steps) - self._schedule.num_trained(self.step)
        self._emit(
            loss=self.loss,
            learning_rate=logs["learning_rate"],
            grad_norm=logs.get("grad_norm"),
            examples_per_s=self._rate.per_s,
            eta_s=remaining / self._rate.per_s if self._rate.per_s else None,
        )
        if not math.isfinite(self.loss):
            raise diverged(f"The loss at step {self.step} is {self.loss}.", self._schedule)

    def on_epoch_end(self, *_: Any, **kwargs: Any) -> None:
        """Validate, except after an epoch that was broken off, and after the last: that one is the final validation."""
        if not self._child.stop.is_set() and self.step < self._schedule.total_steps:
            self._validate_between_epochs(kwargs["model"])
            self._rate.restart()

    def validate(self, model: Any) -> None:
        """Run over the validation split, if there is one, and emit what it scored."""
        if self._evaluator is None:
            return
        self._child.events.emit(PhaseChanged(phase=Phase.EVALUATING))
        self.evaluation = self._evaluator.run(model, check_stop=self._child.check_stop)
        self._emit(**self.evaluation.document())

    def _validate_between_epochs(self, model: Any) -> None:
        self.validate(model)
        self._child.events.emit(PhaseChanged(phase=Phase.TRAINING))

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


class Rate:
    """Examples per second over the last steps; time spent outside of training is left out by `restart`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._mark = clock()
        self._steps: deque[tuple[int, float]] = deque(maxlen=_RATE_WINDOW_STEPS)

    def restart(self) -> None:
        """Let the next step begin now."""
        self._mark = self._clock()

    def add(self, num_examples: int) -> None:
        """End a step that took this many examples; the next one begins now."""
        now = self._clock()
        self._steps.append((num_examples, now - self._mark))
        self._mark = now

    @property
    def per_s(self) -> float | None:
        """Return the rate, or None before the first step."""
        seconds = sum(seconds for _, seconds in self._steps)
        return sum(examples for examples, _ in self._steps) / seconds if seconds > 0 else None


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
