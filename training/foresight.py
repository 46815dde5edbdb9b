"""What a run will hold, said before its first step, and made to fit its budget: what it was given, else what is free."""

from dataclasses import replace

from core.child import Child
from core.events import Planned
from core.process import compact_memory
from training import device
from training.fit import Fitted, fit, too_large
from training.memory import MemoryPlan
from training.pass_limit import PassLimit
from training.passes import Sizes
from training.planned_run import Device
from training.planning import plan_run
from training.settings import Schedule
from training.spec import Hyperparameters, TrainingSpec
from vlm.loading import LoadedBase
from vlm.shapes import geometry_of


def foresee(
    spec: TrainingSpec, base: LoadedBase, asked: Hyperparameters, schedule: Schedule, sizes: Sizes, *, child: Child
) -> Schedule:
    """Return the schedule, changed where memory is short; tells the plan and each choice.

    Args:
        spec: The run.
        base: Its base.
        asked: The hyperparameters; what is `"auto"` may be changed.
        schedule: What they resolved to.
        sizes: Of its examples and images.
        child: Hears it.

    Raises:
        WorkFailed: `out_of_memory`: it cannot fit `resources.memory_gb`. What is free may change, so there it is tried.
    """
    geometry = geometry_of(base.model.config.to_dict(), name=spec.base_model, published=base.published)
    budget_gb = spec.resources.memory_gb
    if geometry is None or spec.resources.is_sharded or spec.resources.parallelism == "model":
        if budget_gb is not None:
            why = "what this run holds cannot be planned (another family, or layers on several devices)"
            child.events.log(f"resources.memory_gb is not heeded: {why}.", level="warning")
        return schedule
    on_gpu = device.has_gpu()
    place: Device = "cuda" if on_gpu else "cpu"

    def plan_of(tried: Schedule) -> MemoryPlan:
        return plan_run(geometry, spec.method, _within(spec.pass_limit, tried), sizes=sizes, device=place)

    limit_gb = budget_gb if budget_gb is not None else _free_gb(spec)
    if limit_gb is None:
        fitted = Fitted(schedule=schedule, plan=plan_of(schedule), choices=())
    else:
        fitted = fit(asked, schedule, budget_gb=limit_gb, plan_of=plan_of, on_gpu=on_gpu)
    _tell(fitted, child)
    if limit_gb is not None and not fitted.fits(limit_gb):
        if budget_gb is not None:
            raise too_large(fitted.plan, budget_gb)
        held = f"The run may hold {fitted.plan.most_bytes / 1e9:.2f} GB, and {limit_gb:g} GB are free"
        child.events.log(f"{held}; it is tried all the same.", level="warning")
    if fitted.schedule.compact_memory:
        compact_memory()
    return fitted.schedule


def _tell(fitted: Fitted, child: Child) -> None:
    child.events.emit(Planned(plan=fitted.plan.document()))
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

    Nor with several processes: each would see other figures, and they have to choose alike.
    """
    available = device.memory_bytes() if spec.resources.resolved_processes == 1 else None
    return None if available is None else round(available / 1e9, 2)
