"""Fitting a run into a budget of memory: a ladder of ways to hold less, the ones that cost least first. Torch-free.

Each rung leaves the learning problem as it is (the last one rounds the optimizer's state), and only what was left to us
(`"auto"`) is changed. What a rung gives is asked of the memory plan, so no rung is taken in vain: one that is not enough
stays, and the next is added.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from core.errors import FailureCode, WorkFailed
from training.memory import MemoryPlan
from training.settings import Schedule
from training.spec import Hyperparameters

_GB = 1e9
_STEP_GB = 0.1  # to which the smallest budget is rounded up

PlanOf = Callable[[Schedule], MemoryPlan]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A schedule, and what it holds.

    Attributes:
        choices: What was chosen for memory's sake, a sentence each, with what it gains.
    """

    schedule: Schedule
    plan: MemoryPlan
    choices: tuple[str, ...]

    def fits(self, budget_gb: float) -> bool:
        """Tell whether a budget is enough."""
        return self.plan.most_bytes <= budget_gb * _GB


def fit(asked: Hyperparameters, schedule: Schedule, *, budget_gb: float, plan_of: PlanOf, on_gpu: bool) -> Fitted:
    """Return a schedule whose plan stays below a budget at its upper end, or comes as near to it as it can.

    Args:
        asked: What the job says; only what is `"auto"` there is changed.
        schedule: What it resolved to.
        budget_gb: What the run may hold, in 10^9 bytes; on a CPU the whole process.
        plan_of: The memory of a run with another schedule.
        on_gpu: Whether it runs on one.
    """
    plan, choices = plan_of(schedule), list[str]()
    for changed, words in _ladder(asked, schedule, on_gpu=on_gpu):
        if plan.most_bytes <= budget_gb * _GB:
            break
        schedule = replace(schedule, **changed(schedule))
        less = plan_of(schedule)
        choices.append(f"{words}: {_gb(plan.most_bytes)} becomes {_gb(less.most_bytes)} of {budget_gb:g} GB.")
        plan = less
    return Fitted(schedule=schedule, plan=plan, choices=tuple(choices))


_Change = Callable[[Schedule], dict[str, Any]]


def _ladder(asked: Hyperparameters, schedule: Schedule, *, on_gpu: bool) -> Iterator[tuple[_Change, str]]:
    """Yield what can be changed, each with its words; those that change nothing here are left out."""
    if asked.gradient_checkpointing == "auto" and schedule.gradient_checkpointing is False:
        yield _set(gradient_checkpointing=True), "Activations are computed again instead of kept (a third more work)"
    if asked.micro_batch_size == "auto" and asked.micro_batch_tokens == "auto":
        for _ in range(math.ceil(math.log2(max(2, schedule.micro_batch_size)))):
            yield _halve, "Passes are half as large; a step has as many examples as before"
    if asked.compact_memory == "auto" and not on_gpu:
        yield _set(compact_memory=True), "Memory is given back at once (at six tenths of the speed)"
    if asked.optimizer == "auto" and schedule.optimizer == "adamw":
        yield _set(optimizer="adamw_8bit"), "The optimizer's state is kept in 8 bits"


def _set(**values: Any) -> _Change:
    return lambda _: values


def _halve(schedule: Schedule) -> dict[str, Any]:
    tokens = schedule.micro_batch_tokens
    return {
        "micro_batch_size": math.ceil(schedule.micro_batch_size / 2),
        "micro_batch_tokens": None if tokens is None else max(1, tokens // 2),
    }


def too_large(plan: MemoryPlan, budget_gb: float) -> WorkFailed:
    """Return the failure of a run that holds more than its budget after every rung, with the smallest one that would do."""
    needed = math.ceil(plan.most_bytes / _GB / _STEP_GB) * _STEP_GB
    part, size = max(plan.peak.parts.items(), key=lambda each: each[1])
    return WorkFailed(
        FailureCode.OUT_OF_MEMORY,
        f"The run does not fit resources.memory_gb {budget_gb:g}: with everything that changes no result it may hold "
        f"{plan.most_bytes / _GB:.2f} GB while {plan.peak.phase}, of that {part} {size / _GB:.2f} GB.",
        remedy=f"Give resources.memory_gb of {needed:.1f} or more; or quantize the base (method.type qlora), lower "
        "image.longest_edge or split long rows.",
    )


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / _GB:.2f} GB"
