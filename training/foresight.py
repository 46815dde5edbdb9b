"""What a run will hold, said before its weights are read, and made to fit its budget.

That is what it was given; else what the device has when no other run holds any, and beside others, by ways that change no
result, what they leave.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from core.child import Child
from core.events import Planned
from core.process import compact_memory
from training import device
from training.fit import Fitted, PlanOf, Recipe, fit, too_large
from training.memory import MemoryPlan
from training.pass_limit import PassLimit
from training.passes import Sizes
from training.planned_run import Device
from training.planning import plan_run
from training.settings import Schedule
from training.spec import TrainingSpec
from vlm.geometry import Geometry
from vlm.image_options import ImageOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What a run would be, before anything is chosen for memory's sake.

    Attributes:
        asked: The run; what it leaves to us may be changed.
        recipe: What that came to.
        geometry: Of its base; None where the base is of a family whose memory is not counted.
        sizes_of: Of its examples and images, with pictures cut in a way.
        edges_px: Shorter longest edges of pictures that the base can take, falling.
    """

    asked: TrainingSpec
    recipe: Recipe
    geometry: Geometry | None
    sizes_of: Callable[[ImageOptions], Sizes]
    edges_px: tuple[int, ...]


def foresee(prospect: Prospect, *, child: Child) -> Recipe:
    """Return the recipe, changed where memory is short; tells the plan and each choice.

    Raises:
        WorkFailed: `out_of_memory`: it cannot fit `resources.memory_gb`. What is free may change, so there it is tried.
    """
    spec, geometry = prospect.asked, prospect.geometry
    budget_gb = spec.resources.memory_gb
    if geometry is None or spec.resources.is_sharded or spec.resources.parallelism == "model":
        if budget_gb is not None:
            why = "what this run holds cannot be planned (another family, or layers on several devices)"
            child.events.log(f"resources.memory_gb is not heeded: {why}.", level="warning")
        return prospect.recipe
    on_gpu = device.has_gpu()
    place: Device = "cuda" if on_gpu else "cpu"

    @cache
    def plan_of(tried: Recipe) -> MemoryPlan:
        schedule = _within(spec.pass_limit, tried.schedule)
        return plan_run(geometry, tried.method, schedule, sizes=prospect.sizes_of(tried.image), device=place)

    limits = _Limits.given(budget_gb) if budget_gb is not None else _Limits.of(spec, on_gpu=on_gpu)
    fitted = _fitted(prospect, limits, plan_of, on_gpu=on_gpu)
    _tell(fitted, child)
    if limits is not None and not fitted.fits(limits.now_gb):
        if budget_gb is not None:
            raise too_large(fitted, budget_gb)
        held = f"The run may hold {fitted.plan.most_bytes / 1e9:.2f} GB, and {limits.now_gb:g} GB are free"
        child.events.log(f"{held}; it is tried all the same.", level="warning")
    if fitted.recipe.schedule.compact_memory:
        compact_memory()
    return fitted.recipe


def _fitted(prospect: Prospect, limits: "_Limits | None", plan_of: PlanOf, *, on_gpu: bool) -> Fitted:
    """Return the recipe fitted to what the device has; then, as far as no result changes, to what others leave of it."""
    spec, recipe = prospect.asked, prospect.recipe
    if limits is None:
        return Fitted(recipe=recipe, plan=plan_of(recipe), choices=())
    alone = fit(spec, recipe, budget_gb=limits.alone_gb, plan_of=plan_of, on_gpu=on_gpu, edges_px=prospect.edges_px)
    if alone.fits(limits.now_gb) or limits.now_gb == limits.alone_gb:
        return alone
    beside = fit(spec, alone.recipe, budget_gb=limits.now_gb, plan_of=plan_of, on_gpu=on_gpu, is_exact=True)
    return replace(beside, choices=(*alone.choices, *beside.choices))


def _tell(fitted: Fitted, child: Child) -> None:
    child.events.emit(Planned(plan=fitted.document() | {"based_on": "every row"}))
    for choice in fitted.choices:
        child.events.log(choice)


def _within(limit: PassLimit | None, schedule: Schedule) -> Schedule:
    """Return a schedule as it will be run, with what was learned of this device."""
    if limit is None:
        return schedule
    budget = limit.applied(schedule.budget)
    return replace(
        schedule,
        micro_batch_size=budget.num_examples,
        micro_batch_tokens=budget.num_tokens,
        gradient_checkpointing=schedule.gradient_checkpointing or limit.gradient_checkpointing,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """What a run may hold, in 10^9 bytes.

    Attributes:
        alone_gb: When no other run holds any: what it learns is fitted to this, so it does not depend on who runs beside it.
        now_gb: As things stand: how it is computed is fitted to this.
    """

    alone_gb: float
    now_gb: float

    @classmethod
    def given(cls, budget_gb: float) -> "_Limits":
        return cls(alone_gb=budget_gb, now_gb=budget_gb)

    @classmethod
    def of(cls, spec: TrainingSpec, *, on_gpu: bool) -> "_Limits | None":
        """Return what this device has for each process; None where nobody knows."""
        num_processes = spec.resources.resolved_processes
        copies = 1 if on_gpu else num_processes  # that share what the device has
        # Several would see several figures, and have to choose alike.
        free = device.memory_bytes() if num_processes == 1 else None
        beside, alone = (None if each is None else each // copies for each in (spec.beside_bytes, spec.alone_bytes))
        known = [each for each in (free, beside) if each is not None]
        if not known:
            return None
        now = min(known)
        return cls(alone_gb=round(max(now, alone or 0) / 1e9, 2), now_gb=round(now / 1e9, 2))
