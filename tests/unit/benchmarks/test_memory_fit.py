"""The calibration that is fitted to runs is the one that they were made from."""

import pytest

from benchmarks.memory_grid.cases import fast, grid
from benchmarks.memory_grid.figures import Figures
from benchmarks.memory_grid.fit import fitted
from training.calibration import calibration

MB = 10**6


def made(truth, now, *, shapes, counted_mb):
    """Return a run that held what `truth` says, and whose plan said what `now` does."""

    def phase(name, libraries, counted, num_shapes=0):
        parts = {"process": now.process, "libraries": libraries, "base.text": counted * MB}
        return {"phase": name, "parts": parts | {"kernels": num_shapes * now.kernels_per_shape}}

    phases = [
        phase("loading", now.libraries["loading"], 50),
        phase("preparing", now.libraries["preparing"], 60),
        phase("training", now.libraries["training"], counted_mb, shapes),
        phase("evaluating", now.libraries["training"], 70, shapes),
    ]
    held = {
        "loading": 50 * MB + truth.libraries["loading"],
        "preparing": 60 * MB + truth.libraries["preparing"],
        "training": counted_mb * MB + truth.libraries["training"] + shapes * truth.kernels_per_shape,
    }
    held["evaluating"] = held["training"] - (counted_mb - 70) * MB
    peaks = {name: truth.process + above for name, above in held.items()}
    return Figures(
        plan={"peak": {"phase": "training"}, "phases": phases},
        empty_bytes=truth.process,
        peak_bytes=max(peaks.values()),
        peak_by_phase=peaks,
    )


def test_what_runs_were_made_from_is_found_again():
    now = calibration()
    libraries = {"loading": 11 * MB, "preparing": 33 * MB, "training": 77 * MB}
    truth = now.model_copy(update={"process": 999 * MB, "libraries": libraries, "kernels_per_shape": 9 * MB})
    runs = [made(truth, now, shapes=shapes, counted_mb=mb) for shapes, mb in ((2, 300), (5, 400), (9, 900))]
    found = fitted(runs, [], now, source="a test")
    assert found.process == truth.process
    assert found.libraries == pytest.approx(libraries, abs=2)
    assert found.kernels_per_shape == pytest.approx(truth.kernels_per_shape, abs=2)
    assert found.compact == (1.0, 1.0)
    assert found.source == "a test"


def test_the_error_is_that_of_the_peak_above_the_empty_process():
    now = calibration()
    run = made(now, now, shapes=0, counted_mb=400)
    assert run.error == 0
    assert run.model_copy(update={"peak_bytes": run.peak_bytes + run.held_bytes}).error == -0.5


def test_the_grid_has_sixty_runs_of_different_names():
    names = [case.name for case in (*grid(), *fast())]
    assert len(list(grid())) >= 60
    assert len(set(names)) == len(names)
