"""From measured runs to what cannot be counted: the libraries' pages, oneDNN's kernels, what the allocator keeps."""

import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.memory_grid.figures import Figures
from training.calibration import Calibration

_FITTED = ("libraries", "kernels")


def fitted(runs: Sequence[Figures], now: Calibration, *, source: str) -> Calibration:
    """Return a calibration that lies in the middle of these runs.

    Args:
        runs: With memory that is given back at once; what their plans said is taken apart again.
        now: The calibration that these plans were made with.
        source: When and where the runs were made.
    """
    libraries = {phase: _middle(runs, phase) for phase in ("loading", "preparing")}
    training, per_shape = _line(runs, now)
    again = now.model_copy(
        update={
            "process": round(statistics.median(run.empty_bytes for run in runs)),
            "libraries": libraries | {"training": training},
            "kernels_per_shape": per_shape,
            "source": source,
        }
    )
    ratios = [run.held_bytes / _expected(run, now, again) for run in runs]
    return again.model_copy(update={"compact": (round(min(ratios), 3), round(max(ratios), 3))})


def _middle(runs: Sequence[Figures], phase: str) -> int:
    """Return the median of what a phase held and nobody counted."""
    return round(statistics.median(_rest(run, phase) for run in runs))


def _rest(run: Figures, phase: str) -> int:
    return run.peak_by_phase[phase] - run.empty_bytes - run.counted(phase, without=_FITTED)


def _line(runs: Sequence[Figures], now: Calibration) -> tuple[int, int]:
    """Return what training holds beside what is counted: always, and for each number of tokens that its passes have."""
    shapes = [run.phase("training").get("kernels", 0) / now.kernels_per_shape for run in runs]
    rest = [_rest(run, "training") for run in runs]
    always_and_each, *_ = np.linalg.lstsq(np.array([[1.0, each] for each in shapes]), np.array(rest), rcond=None)
    return round(float(always_and_each[0])), round(float(always_and_each[1]))


def _expected(run: Figures, now: Calibration, again: Calibration) -> float:
    """Return the peak that another calibration would have expected."""
    totals = []
    for phase in run.plan["phases"]:
        name = phase["phase"]
        shapes = run.phase(name).get("kernels", 0) / now.kernels_per_shape
        libraries = again.libraries.get(name, again.libraries["training"])
        totals.append(run.counted(name, without=_FITTED) + libraries + shapes * again.kernels_per_shape)
    return max(totals)
