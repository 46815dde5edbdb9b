"""One run of one arm, and what comes before the first; each is called in a process of its own (`benchmarks.arms.processes`)."""

from pathlib import Path

import torch

from benchmarks.arms import ours, stock
from benchmarks.arms.clock import peak_bytes
from benchmarks.arms.figures import Figures, Machine, Plan
from core.events import Emitter
from training import device
from vlm import geometry, untrained

_ARMS = {
    "cookbook": stock.cookbook,
    "stock": stock.stock,
    "plain": stock.plain,
    "lensmith": ours.lensmith,
    "exact": ours.exact,
}


def run(plan: Plan) -> Figures:
    """Run the plan and return its figures."""
    return _ARMS[plan.arm](plan)


def prepare(folder: Path, name: str, depth: tuple[int, int]) -> Machine:
    """Return what this process finds, which has imported what every arm imports, and only then write the base.

    Args:
        folder: An empty folder for the base.
        name: The model whose widths it has.
        depth: Layers of its vision tower and of its text model.
    """
    machine = Machine(
        empty_bytes=peak_bytes(),
        precision=device.choose_precision("auto", Emitter(2)),
        threads=torch.get_num_threads(),
        device=device.describe(),
    )
    shape = geometry.find(name)
    assert shape is not None, name
    untrained.write(folder, shape, depth=untrained.Depth(vision=depth[0], text=depth[1]))
    return machine
