"""From measured runs to what cannot be counted: the libraries' pages, oneDNN's kernels, what the allocator keeps."""

import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.memory_grid.figures import Figures
from training.calibration import Calibration
from training.moments import COMES_AND_GOES

_FITTED = ("libraries", "kernels")


def fitted(runs: Sequence[Figures], kept: Sequence[Figures], now: Calibration, *, source: str) -> Calibration:
    """Return a calibration that lies in the middle of these runs.

    Args:
        runs: With memory that is given back at once; what their plans said is taken apart again.
        kept: With the allocator as it is by default.
        now: The calibration that all these plans were made with.
        source: When and where the runs were made.
    """
    per_shape = _per_shape(runs, now)
    rests = [_rest(run, "training") - per_shape * _shapes(run, now) for run in runs]
    libraries = {phase: _middle([_rest(run, phase) for run in runs]) for phase in ("loading", "preparing")}
    again = now.model_copy(
        update={
            "process": _middle([run.empty_bytes for run in runs]),
            "libraries": libraries | {"training": _middle(rests)},
            "kernels_per_shape": per_shape,
            "source": source,
        }
    )
    if kept:
        always, share = _allocator(kept, now, again)
        shares = {name: max(share, old) if name == "int8" else share for name, old in now.kept_share.items()}
        again = again.model_copy(update={"kept_always": always, "kept_share": shares})
    ranges = {"compact": _range(runs, now, again)} | ({"fast": _range(kept, now, again)} if kept else {})
    return again.model_copy(update=ranges)


def _middle(values: Sequence[float]) -> int:
    return round(statistics.median(values))


def _rest(run: Figures, phase: str) -> float:
    """Return what a phase held and nobody counted."""
    return run.peak_by_phase[phase] - run.empty_bytes - run.counted(phase, without=_FITTED)


def _shapes(run: Figures, now: Calibration) -> float:
    return run.phase("training").get("kernels", 0) / now.kernels_per_shape


def _per_shape(runs: Sequence[Figures], now: Calibration) -> int:
    """Return what each number of tokens takes: the slope at the end of training, when all kernels are there."""
    slope, _ = np.polyfit([_shapes(run, now) for run in runs], [_rest(run, "evaluating") for run in runs], 1)
    return round(float(slope))


def _allocator(kept: Sequence[Figures], now: Calibration, again: Calibration) -> tuple[int, float]:
    """Return what the allocator keeps always, and of what comes and goes."""
    coming, rest = [], []
    for run in kept:
        for phase in ("preparing", "training"):
            coming.append(sum(run.phase(phase).get(part, 0) for part in COMES_AND_GOES))
            rest.append(
                run.peak_by_phase[phase] - run.empty_bytes - _total(run, phase, now, again, without=("allocator",))
            )
    share, always = np.polyfit(coming, rest, 1)
    return round(float(always)), round(float(share), 2)


def _total(run: Figures, phase: str, now: Calibration, again: Calibration, *, without: tuple[str, ...] = ()) -> float:
    """Return what another calibration would have expected of a phase."""
    libraries = again.libraries.get(phase, again.libraries["training"])
    kernels = _shapes(run, now) * again.kernels_per_shape if "kernels" in run.phase(phase) else 0
    total = run.counted(phase, without=(*_FITTED, "allocator")) + libraries + kernels
    if "allocator" in run.phase(phase) and "allocator" not in without:
        coming = sum(run.phase(phase).get(part, 0) for part in COMES_AND_GOES)
        total += again.kept_always + again.kept_share["nf4"] * coming
    return total


def _range(runs: Sequence[Figures], now: Calibration, again: Calibration) -> tuple[float, float]:
    """Return the least and the most that was held of what would have been expected."""
    names = [[phase["phase"] for phase in run.plan["phases"]] for run in runs]
    ratios = [
        run.held_bytes / max(_total(run, name, now, again) for name in phases)
        for run, phases in zip(runs, names, strict=True)
    ]
    return round(min(ratios), 3), round(max(ratios), 3)
