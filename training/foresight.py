"""What a run will hold, said before its first step, and made to fit where a budget is given."""

from functools import partial

from core.child import Child
from core.events import Planned
from core.process import compact_memory
from training import device
from training.fit import fit
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
    """Return the schedule, changed where it has to fit `resources.memory_gb`; tells the plan and each choice.

    Args:
        spec: The run.
        base: Its base.
        asked: The hyperparameters; what is `"auto"` may be changed.
        schedule: What they resolved to.
        sizes: Of its examples and images.
        child: Hears it.

    Raises:
        WorkFailed: `out_of_memory`: it cannot fit.
    """
    geometry, budget_gb = geometry_of(base.model.config.to_dict(), name=spec.base_model), spec.resources.memory_gb
    if geometry is None or spec.resources.is_sharded or spec.resources.parallelism == "model":
        if budget_gb is not None:
            why = "what this run holds cannot be planned (another family, or layers on several devices)"
            child.events.log(f"resources.memory_gb is not heeded: {why}.", level="warning")
        return schedule
    place: Device = "cuda" if device.has_gpu() else "cpu"
    plan_of = partial(plan_run, geometry, spec.method, sizes=sizes, device=place)
    planned = plan_of(schedule)
    if budget_gb is not None:
        fitted = fit(asked, schedule, budget_gb=budget_gb, plan_of=plan_of, on_gpu=place == "cuda")
        for choice in fitted.choices:
            child.events.log(choice)
        schedule, planned = fitted.schedule, fitted.plan
    child.events.emit(Planned(plan=planned.document()))
    if schedule.compact_memory:
        compact_memory()
    return schedule
