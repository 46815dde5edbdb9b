"""What a job will hold and how long it takes, before it is accepted: from its data set's histogram, fitted to a device. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from training import settings
from training.duration import Workload, workload_of
from training.expected_sizes import expected_sizes
from training.fit import Asked, Fitted, Recipe, fit
from training.memory import MemoryPlan
from training.passes import Sizes
from training.planned_run import Device
from training.planning import plan_run
from vlm.blueprint import Blueprint
from vlm.conversation import Split
from vlm.image_options import ImageOptions
from vlm.precision import Precision
from vlm.size_histogram import SizeHistogram


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A job before it is accepted.

    Attributes:
        fitted: As it would be run within the budget.
        least: As it would be run with as little memory as it can.
        work: What it has to do.
    """

    fitted: Fitted
    least: Fitted
    work: Workload

    def settings(self) -> dict[str, Any]:
        """Return what `"auto"` comes to, as JSON."""
        recipe = self.fitted.recipe
        method = {"type": recipe.method.type, "quantization": recipe.method.resolved_quantization}
        return {
            "hyperparameters": recipe.schedule.document(),
            "method": method,
            "image": recipe.image.model_dump(mode="json"),
        }


def look_ahead(
    asked: Asked,
    blueprint: Blueprint,
    histogram: SizeHistogram,
    splits: Mapping[Split, int],
    *,
    device: Device,
    precision: Precision,
    budget_gb: float | None,
) -> Outlook:
    """Return the outlook of a job.

    Args:
        asked: What it says.
        blueprint: Of its base.
        histogram: Of its data set.
        splits: How many examples each split has; at least one to train on.
        device: What it runs on.
        precision: What that computes in best.
        budget_gb: What it may hold, in 10^9 bytes; None: as much as it likes.
    """
    on_gpu, wanted = device == "cuda", asked.hyperparameters.precision
    schedule = settings.resolve(
        asked.hyperparameters,
        num_examples=splits["train"],
        precision=precision if wanted == "auto" or (wanted == "fp16" and not on_gpu) else wanted,
        on_gpu=on_gpu,
        can_pack=True,
        no_features=settings.TRAINS_VISION if asked.method.train_vision else None,
    )
    recipe = Recipe(schedule=schedule, method=asked.method.settled, image=asked.image)

    seen = min(1.0, schedule.total_steps / schedule.steps_per_epoch)

    @cache
    def sizes_of(image: ImageOptions) -> Sizes:
        return expected_sizes(histogram, blueprint.cutting_with(image), splits, seen=seen)

    @cache
    def plan_of(tried: Recipe) -> MemoryPlan:
        return plan_run(blueprint.geometry, tried.method, tried.schedule, sizes=sizes_of(tried.image), device=device)

    def fitted(limit_gb: float) -> Fitted:
        edges = blueprint.cutting_with(asked.image).shorter_edges_px
        return fit(asked, recipe, budget_gb=limit_gb, plan_of=plan_of, on_gpu=on_gpu, edges_px=edges)

    found = fitted(budget_gb) if budget_gb is not None else Fitted(recipe=recipe, plan=plan_of(recipe), choices=())
    return Outlook(
        fitted=found,
        least=fitted(0.0),
        work=workload_of(
            blueprint.geometry,
            found.recipe.method,
            found.recipe.schedule,
            sizes_of(found.recipe.image),
            num_validation=splits.get("validation", 0),
        ),
    )
