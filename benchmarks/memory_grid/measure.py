"""One run of the grid, in a process of its own (`benchmarks.arms.processes`)."""

import os
import shutil
import threading
from pathlib import Path

from benchmarks.arms import workload
from benchmarks.arms.workload import Workload
from benchmarks.memory_grid.cases import NUM_EXAMPLES, Case
from benchmarks.memory_grid.figures import Figures
from core.child import Child
from core.events import ChildEvent, Emitter, Planned
from training import pipeline
from training.spec import Hyperparameters, Method, TrainingSpec
from vlm import geometry, untrained
from vlm.conversation import IMAGES_FOLDER, read_examples, write_examples
from vlm.image_options import ImageOptions

_FEATURES_BYTES = 2**32


class _Listener(Emitter):
    """Keeps the plan that a run tells before its first step."""

    def __init__(self) -> None:
        super().__init__(os.open(os.devnull, os.O_WRONLY))
        self.planned: Planned | None = None

    def emit(self, event: ChildEvent) -> None:
        """Hear one event."""
        if isinstance(event, Planned):
            self.planned = event


def write_base(folder: Path, name: str, depth: tuple[int, int]) -> None:
    """Write a base of a published model's widths, with random weights."""
    shape = geometry.find(name)
    assert shape is not None, name
    untrained.write(folder, shape, depth=untrained.Depth(vision=depth[0], text=depth[1]))


def run(case: Case, base: Path, dataset: Path, scratch: Path) -> Figures:
    """Fine-tune as the case says, from the start to the published adapter, and return what was planned and held."""
    shape = geometry.find(case.base)
    assert shape is not None
    spec = TrainingSpec(
        base_model=str(base),
        models_dir=scratch,
        dataset_dir=dataset,
        dataset_digest="grid",
        seed=7,
        method=Method.model_validate(case.method),
        hyperparameters=Hyperparameters.model_validate(case.hyperparameters),
        image=ImageOptions(longest_edge=case.edge_in_tiles * shape.vision.side_px),
        features_dir=scratch / "features",
        features_bytes=_FEATURES_BYTES,
    )
    staging = scratch / "staging"
    staging.mkdir()
    listener = _Listener()
    child = Child(spec=spec.model_dump(mode="json"), staging=staging, events=listener, stop=threading.Event())
    result = pipeline.fine_tune(spec, child)
    assert listener.planned is not None
    return Figures(
        plan=listener.planned.plan,
        empty_bytes=result["empty_memory_bytes"],
        peak_bytes=result["peak_memory_bytes"],
        peak_by_phase=result["peak_memory_by_phase"],
    )


def dataset(folder: Path, case: Case) -> Path:
    """Return the folder of the case's examples, both splits in one."""
    low, high = case.question_tokens
    place = folder / f"{case.tiles}-{low}-{high}"
    if not place.exists():
        asked = Workload(
            name="memory",
            title="memory",
            num_train=NUM_EXAMPLES,
            longest_edge_px=0,
            picture_px=case.picture_px,
            question_tokens=case.question_tokens,
        )
        train, validation = workload.write(place, asked)
        shutil.copytree(validation / IMAGES_FOLDER, train / IMAGES_FOLDER, dirs_exist_ok=True)
        write_examples(train, iter(read_examples(train) + read_examples(validation)))
    return place / "train"


def side_px(case: Case) -> int:
    """Return the side of a tile."""
    shape = geometry.find(case.base)
    assert shape is not None
    return shape.vision.side_px
