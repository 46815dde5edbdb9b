"""Fitting a run into a budget of memory: a ladder of ways to hold less, the ones that cost least first. Torch-free.

The first rungs leave the learning problem as it is, the next two round (the optimizer's state, the base), and the last shows
the model less of each picture: that one is taken only where the job allows it. Only what was left to us (`"auto"`) is
changed. What a rung gives is asked of the memory plan: one that is not enough stays, the next is added, and at last those
are left out again that made no difference.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Protocol

from core.errors import FailureCode, WorkFailed
from training.memory import MemoryPlan
from training.settings import Schedule
from training.spec import Hyperparameters, Method
from vlm.image_options import ImageOptions

_GB = 1e9
_STEP_GB = 0.1  # to which the smallest budget is rounded up


class Asked(Protocol):
    """What a job says, a request or a spec; only what is left to us there is changed."""

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Return the schedule that was asked for."""

    @property
    def method(self) -> Method:
        """Return how the adapter is to be made."""

    @property
    def image(self) -> ImageOptions:
        """Return how pictures are to be cut."""

    @property
    def allow_quality_tradeoff(self) -> bool:
        """Tell whether less of each picture may be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What of a run may change for memory's sake."""

    schedule: Schedule
    method: Method
    image: ImageOptions


PlanOf = Callable[[Recipe], MemoryPlan]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A recipe, and what it holds.

    Attributes:
        choices: What was chosen for memory's sake, a sentence each, with what it gains.
    """

    recipe: Recipe
    plan: MemoryPlan
    choices: tuple[str, ...]

    def fits(self, budget_gb: float) -> bool:
        """Tell whether a budget is enough."""
        return self.plan.most_bytes <= budget_gb * _GB

    def document(self) -> dict[str, Any]:
        """Return the plan as JSON, with what was chosen for memory's sake."""
        return self.plan.document() | {"choices": list(self.choices)}

    @property
    def needed_gb(self) -> float:
        """Return the smallest budget that is enough, rounded up."""
        return round(math.ceil(self.plan.most_bytes / _GB / _STEP_GB) * _STEP_GB, 1)


def fit(
    asked: Asked,
    recipe: Recipe,
    *,
    budget_gb: float,
    plan_of: PlanOf,
    on_gpu: bool,
    edges_px: Sequence[int] = (),
    is_exact: bool = False,
) -> Fitted:
    """Return a recipe whose plan stays below a budget at its upper end, or comes as near to it as it can.

    Args:
        asked: What the job says.
        recipe: What it resolved to.
        budget_gb: What the run may hold, in 10^9 bytes; on a CPU the whole process.
        plan_of: The memory of a run with another recipe; asked for one recipe several times, so it should remember.
        on_gpu: Whether it runs on one.
        edges_px: Shorter longest edges of pictures that the base can take, falling.
        is_exact: Only what changes no result may be chosen.
    """

    def held(rungs: Sequence[_Rung]) -> int:
        return plan_of(_made(recipe, rungs)).most_bytes

    taken: list[_Rung] = []
    exact = _exact(asked.hyperparameters, recipe.schedule, on_gpu=on_gpu)
    for rung in exact if is_exact else itertools.chain(exact, _rounding(asked, recipe, edges_px)):
        if held(taken) <= budget_gb * _GB:
            break
        if held([*taken, rung]) <= held(taken):
            taken.append(rung)
    enough = max(held(taken), budget_gb * _GB)
    for rung in reversed(taken):  # what made no difference in the end
        rest = [each for each in taken if each is not rung]
        if held(rest) <= enough:
            taken = rest
    gains = [(held(taken[:number]), held(taken[: number + 1])) for number in range(len(taken))]
    return Fitted(
        recipe=_made(recipe, taken),
        plan=plan_of(_made(recipe, taken)),
        choices=tuple(
            f"{rung.words}: {_gb(before)} becomes {_gb(after)} of {budget_gb:g} GB."
            for rung, (before, after) in zip(taken, gains, strict=True)
        ),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Rung:
    """One change, and its words."""

    change: Callable[[Recipe], Recipe]
    words: str


def _made(recipe: Recipe, rungs: Sequence[_Rung]) -> Recipe:
    return reduce(lambda now, rung: rung.change(now), rungs, recipe)


def _rounding(asked: Asked, recipe: Recipe, edges_px: Sequence[int]) -> Iterator[_Rung]:
    """Yield what changes results: by rounding, at last by showing the model less."""
    if asked.hyperparameters.optimizer == "auto" and recipe.schedule.optimizer == "adamw":
        yield _set("The optimizer's state is kept in 8 bits", optimizer="adamw_8bit")
    quantized = asked.method.quantized
    if quantized is not None:
        yield _Rung(lambda now: replace(now, method=quantized), "The base's linear layers are kept in 4 bits (nf4)")
    if asked.allow_quality_tradeoff and asked.image.longest_edge is None:
        yield from map(_scaled, edges_px)


def _exact(asked: Hyperparameters, schedule: Schedule, *, on_gpu: bool) -> Iterator[_Rung]:
    """Yield what changes no result; what would change nothing at all here is left out."""
    if asked.gradient_checkpointing == "auto" and schedule.gradient_checkpointing is False:
        words = "Activations are computed again instead of kept (a third more work)"
        yield _set(words, gradient_checkpointing=True)
    if asked.micro_batch_size == "auto" and asked.micro_batch_tokens == "auto":
        for _ in range(math.ceil(math.log2(max(2, schedule.micro_batch_size)))):
            yield _Rung(_halve, "Passes are half as large; a step has as many examples as before")
    if asked.compact_memory == "auto" and not on_gpu and not schedule.compact_memory:
        yield _set("Memory is given back at once (at six tenths of the speed)", compact_memory=True)


def _set(words: str, **values: Any) -> _Rung:
    return _Rung(lambda now: replace(now, schedule=replace(now.schedule, **values)), words)


def _scaled(edge_px: int) -> _Rung:
    return _Rung(
        lambda now: replace(now, image=now.image.model_copy(update={"longest_edge": edge_px})),
        f"Pictures are scaled to {edge_px} px: fewer tiles, and less detail (allow_quality_tradeoff)",
    )


def _halve(now: Recipe) -> Recipe:
    tokens = now.schedule.micro_batch_tokens
    schedule = replace(
        now.schedule,
        micro_batch_size=math.ceil(now.schedule.micro_batch_size / 2),
        micro_batch_tokens=None if tokens is None else max(1, tokens // 2),
    )
    return replace(now, schedule=schedule)


def sentence_of(fitted: Fitted, budget_gb: float) -> tuple[str, str]:
    """Return why a run that holds more than its budget after every rung cannot be, and what would do."""
    plan = fitted.plan
    phase = max(plan.phases, key=lambda each: each.total - each.parts.get("features", 0))
    part, size = max(phase.parts.items(), key=lambda each: each[1] * (each[0] != "features"))
    detail = (
        f"The run does not fit resources.memory_gb {budget_gb:g}: with everything that it may choose it may hold "
        f"{plan.most_bytes / _GB:.2f} GB while {phase.phase}, of that {part} {size / _GB:.2f} GB."
    )
    more = "; or " + " or ".join(_more(fitted.recipe))
    return detail, f"Give resources.memory_gb of {fitted.needed_gb:.1f} or more{more}."


def too_large(fitted: Fitted, budget_gb: float) -> WorkFailed:
    """Return the failure of a run that holds more than its budget after every rung."""
    detail, remedy = sentence_of(fitted, budget_gb)
    return WorkFailed(FailureCode.OUT_OF_MEMORY, detail, remedy=remedy)


def _more(recipe: Recipe) -> Iterator[str]:
    """Yield what the job could allow beside a larger budget."""
    if recipe.method.resolved_quantization == "none":
        yield 'quantize the base (method.type "qlora" or "auto")'
    yield "lower image.longest_edge"
    yield "split long rows"


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / _GB:.2f} GB"
