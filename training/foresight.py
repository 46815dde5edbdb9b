"""What a run will hold, said before its weights are read, and made to fit its budget: what it was given, else what is free."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from core.child import Child
from core.events import Planned
from core.process import compact_memory
from training import device
from training.fit import Fitted, Recipe, fit, too_large
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

    def plan_of(tried: Recipe) -> MemoryPlan:
        schedule = _within(spec.pass_limit, tried.schedule)
        return plan_run(geometry, tried.method, schedule, sizes=prospect.sizes_of(tried.image), device=place)

    limit_gb = budget_gb if budget_gb is not None else _free_gb(spec)
    if limit_gb is None:
        fitted = Fitted(recipe=prospect.recipe, plan=plan_of(prospect.recipe), choices=())
    else:
        fitted = fit(
            spec, prospect.recipe, budget_gb=limit_gb, plan_of=plan_of, on_gpu=on_gpu, edges_px=prospect.edges_px
        )
    _tell(fitted, child)
    if limit_gb is not None and not fitted.fits(limit_gb):
        if budget_gb is not None:
            raise too_large(fitted, budget_gb)
        held = f"The run may hold {fitted.plan.most_bytes / 1e9:.2f} GB, and {limit_gb:g} GB are free"
        child.events.log(f"{held}; it is tried all the same.", level="warning")
    if fitted.recipe.schedule.compact_memory:
        compact_memory()
    return fitted.recipe


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


def _free_gb(spec: TrainingSpec) -> float | None:
    """Return what the run may hold as things stand; None where nobody knows.

    What is free, but not what was promised to runs beside it. Nor with several processes: each would see other figures, and
    they have to choose alike.
    """
    if spec.resources.resolved_processes > 1:
        return None
    known = [each for each in (device.memory_bytes(), spec.headroom_bytes) if each is not None]
    return round(min(known) / 1e9, 2) if known else None
