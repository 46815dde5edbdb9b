"""How long a run still takes: the steps to come at the pace of those measured, and the evaluations among them.

An evaluation costs as much as so many examples of training: measured where one has been, else guessed from the examples
of the validation split. So it follows the pace of the run when that changes. Checkpoints lie within the steps and in the
gaps between epochs, and are measured with them.

The rule that the tests hold it to: from a tenth of the steps on, counted since the run began or went on, the estimate is
within 15 % of what is truly left, as long as

- single steps scatter by s around their pace, with s / sqrt(steps measured) up to 1.5 %,
- the pace is steady; or grows in a line to 1.5 times over the run (for s up to 2 %, of 400 steps or more); or jumps once,
  and a twentieth of the steps has passed since,
- a first evaluation that still lies ahead costs what was guessed, give or take a tenth.
"""

import statistics
from collections import deque
from collections.abc import Callable

from training.pace import Pace, Steps
from training.settings import Schedule

_RATE_STEPS = 20
# A forward pass beside a step of LoRA: the frozen weights need no gradient, so the backward pass costs about as much as
# the forward one, and once more where it computes activations again.
_EVALUATION_SHARE, _EVALUATION_SHARE_RECOMPUTED = 1 / 2, 1 / 3


class Eta:
    """Measures a run as it goes. Each stretch of time belongs to the step or the evaluation that ends it.

    Args:
        schedule: The steps of the run.
        num_validation: Examples of an evaluation; 0: there is none.
        clock: Seconds, from anywhere.
    """

    def __init__(self, schedule: Schedule, *, num_validation: int, clock: Callable[[], float]) -> None:
        self._schedule = schedule
        self._num_validation = num_validation
        self._clock = clock
        self._mark = clock()
        self._step = 0
        self._steps = Steps()
        self._last: deque[tuple[int, float]] = deque(maxlen=_RATE_STEPS)
        self._costs: list[float] = []
        self._unscaled: float | None = None

    def begin(self, step: int) -> None:
        """Let the first step after this one begin now."""
        self._step = step
        self._mark = self._clock()

    def end_step(self) -> None:
        """End a step; the next one begins now."""
        self._step += 1
        examples, seconds = self._trained(self._step) - self._trained(self._step - 1), self._lap()
        self._last.append((examples, seconds))
        self._steps.add(examples, seconds)

    def end_evaluation(self) -> None:
        """End an evaluation between two epochs; the next step begins now."""
        self._unscaled = self._lap()
        self._scale()

    @property
    def examples_per_s(self) -> float | None:
        """Return the rate of the last steps, or None before the first."""
        seconds = sum(seconds for _, seconds in self._last)
        return sum(examples for examples, _ in self._last) / seconds if seconds > 0 else None

    @property
    def remaining_s(self) -> float | None:
        """Return the seconds to the end of the last evaluation; None before the first step."""
        self._scale()
        pace = self._pace()
        if pace is None:
            return None
        now, total = self._trained(self._step), self._schedule.total_steps
        evaluated_at = (self._trained(step) - now for step in self._evaluations(total))
        cost = statistics.median(self._costs) if self._costs else self._guess()
        return pace.seconds(self._left()) + sum(cost * pace.after(examples) for examples in evaluated_at)

    def _evaluations(self, total: int) -> list[int]:
        """Return the steps after which an evaluation is still to come; the last step has the final one."""
        if not self._num_validation:
            return []
        per_epoch = self._schedule.steps_per_epoch
        first = max(1, -(-self._step // per_epoch)) * per_epoch  # at the end of an epoch its own is still to come
        return [*range(first, total, per_epoch), total]

    def _guess(self) -> float:
        recomputes = bool(self._schedule.gradient_checkpointing)
        return self._num_validation * (_EVALUATION_SHARE_RECOMPUTED if recomputes else _EVALUATION_SHARE)

    def _scale(self) -> None:
        """Put the last evaluation in units of examples, as soon as there is a pace."""
        pace = self._pace()
        if self._unscaled is not None and pace is not None:
            self._costs.append(self._unscaled / pace.after(0))
            self._unscaled = None

    def _pace(self) -> Pace | None:
        return self._steps.pace(examples_left=self._left())

    def _left(self) -> int:
        return self._trained(self._schedule.total_steps) - self._trained(self._step)

    def _trained(self, step: int) -> int:
        return self._schedule.num_trained(step)

    def _lap(self) -> float:
        before, self._mark = self._mark, self._clock()
        return self._mark - before
