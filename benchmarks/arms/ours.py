"""Lensmith's arms: the child's own path, `training.pipeline.fine_tune`, with nothing of it left out."""

import itertools
import os
import threading
import time
from typing import Any

from peft import PeftModel

from benchmarks.arms import scoring
from benchmarks.arms.clock import counting
from benchmarks.arms.figures import Figures, Plan
from benchmarks.arms.stock import LEARNING_RATE, MICRO_BATCH_SIZE
from benchmarks.arms.workload import BATCH_SIZE, EPOCHS, SEED
from core.child import Child
from core.events import ChildEvent, Emitter, Metric, Phase, PhaseChanged
from training import pipeline
from training.export import ADAPTER_FOLDER
from training.spec import Hyperparameters, TrainingSpec
from vlm import loading
from vlm.image_options import ImageOptions

_SCHEDULE = {
    "epochs": EPOCHS,
    "batch_size": BATCH_SIZE,
    "learning_rate": LEARNING_RATE,
    "warmup_ratio": 0.0,
    "lr_scheduler": "linear",
}
# The micro-batches of the stock arm, one example a row: what is left is the cache, the graph and the head.
_UNPACKED = {"micro_batch_size": MICRO_BATCH_SIZE, "packing": False}
_FEATURES_BYTES = 2**30


class StampedEmitter(Emitter):
    """Writes events as a child does, and keeps each with the time at which it was written."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.stamped: list[tuple[float, ChildEvent]] = []

    def emit(self, event: ChildEvent) -> None:
        """Write one event."""
        self.stamped.append((time.perf_counter(), event))
        super().emit(event)

    def entered(self, phase: Phase) -> float:
        """Return when the work entered a phase for the first time."""
        return next(at for at, event in self.stamped if isinstance(event, PhaseChanged) and event.phase == phase)

    @property
    def steps(self) -> list[tuple[float, dict[str, Any]]]:
        """Return the metric of each optimizer step."""
        return [(at, event.data) for at, event in self.stamped if isinstance(event, Metric) and "loss" in event.data]


def lensmith(plan: Plan) -> Figures:
    """Run a job as it runs by default."""
    return _run(plan, _SCHEDULE)


def exact(plan: Plan) -> Figures:
    """Run a job without packing and token budgets, whose steps can be compared with the stock arm's."""
    return _run(plan, _SCHEDULE | _UNPACKED)


def _run(plan: Plan, hyperparameters: dict[str, Any]) -> Figures:
    spec = TrainingSpec(
        base_model=str(plan.base),
        models_dir=plan.scratch,
        dataset_dir=plan.train,
        dataset_digest="benchmark",
        seed=SEED,
        hyperparameters=Hyperparameters.model_validate(hyperparameters | {"precision": plan.precision}),
        image=ImageOptions(longest_edge=plan.longest_edge_px),
        features_dir=plan.scratch / "features",  # empty: what fills it counts
        features_bytes=_FEATURES_BYTES,
    )
    staging = plan.scratch / "staging"
    staging.mkdir()
    events, flops = StampedEmitter(os.open(os.devnull, os.O_WRONLY)), list[int]()
    child = Child(spec=spec.model_dump(mode="json"), staging=staging, events=events, stop=threading.Event())
    with counting(flops, is_on=plan.counts_flops):
        result = pipeline.fine_tune(spec, child)
    began = events.entered(Phase.TRAINING)
    marks = [began, *_ends_of_epochs(events.steps)]
    return Figures(
        preparing_s=began - events.entered(Phase.PREPARING),
        epochs_s=[end - start for start, end in itertools.pairwise(marks)],
        losses=[data["loss"] for _, data in events.steps],
        validation_loss=_validation_loss(plan),
        peak_bytes=result["peak_memory_bytes"],
        flops=flops[0] if flops else None,
    )


def _ends_of_epochs(steps: list[tuple[float, dict[str, Any]]]) -> list[float]:
    """Return when each epoch's last step ended."""
    per_epoch = len(steps) // EPOCHS
    return [at for at, _ in steps[per_epoch - 1 :: per_epoch]]


def _validation_loss(plan: Plan) -> float:
    """Score the published adapter over a fresh base."""
    resolved = loading.resolve(str(plan.base), models_dir=plan.scratch)
    base = loading.load(resolved, quantization="nf4", dtype=loading.DTYPES[plan.precision])
    base.family.set_image_options(base.processor, ImageOptions(longest_edge=plan.longest_edge_px))
    model = PeftModel.from_pretrained(base.model, plan.scratch / "staging" / ADAPTER_FOLDER)
    return scoring.validation_loss(model, base.processor, base.family, plan)
