"""The losses of ten steps, in a file: whoever makes training faster shows the same numbers, or says why they moved.

The numbers lie in `golden_losses.json`; a change that moves them writes the new ones there, in the commit that says why.
"""

import json
from pathlib import Path

import pytest

from tests.unit.training.conftest import num_packed, recorded_steps
from training import pipeline

GOLDEN = json.loads((Path(__file__).parent / "golden_losses.json").read_text())
# fp32 sums come out differently by a few units of the last place with other vector instructions
TOLERANCE = 1e-4

STEPS = {"precision": "fp32", "max_steps": 10, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 2e-3}
RUNS = {
    "tiny, lora": {"base_model": "tiny", "method": {"type": "lora"}},
    "tiny, nf4": {"base_model": "tiny", "method": {"type": "qlora"}},
    "lensmith-demo, lora": {"base_model": "lensmith-demo", "method": {"type": "lora"}},
}
RATES = {"lensmith-demo, lora": 2e-4}  # faster, it jumps about, and a rounding becomes another loss
# Each of these changes how a step is computed, and none of them what it comes to.
SAME_NUMBERS = {
    "one row at a time": {"micro_batch_size": 1},
    "all rows at once": {"micro_batch_size": 4},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "packed": {"packing": True, "micro_batch_size": "auto"},
    "few tokens a pass": {"packing": False, "micro_batch_size": "auto", "micro_batch_tokens": 64},
    "no feature cache": {"feature_cache": False},
}


def write_rows(album):
    """Rows with no, one and three pictures, of one and two turns."""
    rows = [
        album.question("Which colour?", "red", images=1, row=1),
        album.question("Say hello.", "Hello to all of you!", row=2),
        album.question("Which colours?", "red, green, blue", images=3, row=3),
        album.example(("user", "1?"), ("assistant", "one", 0), ("user", "2?"), ("assistant", "two"), row=4),
        album.question("And which one is this, of all that there are?", "r", images=1, row=5),
        album.question("2 + 2?", "4", row=6),
    ]
    album.write(*rows)


def losses(spec, run, folder, name, **hyperparameters):
    child_run = run(folder)
    asked = STEPS | {"learning_rate": RATES.get(name, STEPS["learning_rate"])} | hyperparameters
    cache = {"features_dir": child_run.child.staging / "features", "features_bytes": 10**9}
    pipeline.fine_tune(spec(**RUNS[name], hyperparameters=asked, seed=11, **cache), child_run.child)
    return [metric["loss"] for metric in child_run.metrics if "loss" in metric]


@pytest.mark.parametrize("name", RUNS)
def test_ten_steps_lose_what_they_lost_before(album, spec, run, name):
    write_rows(album)
    assert losses(spec, run, "run", name) == pytest.approx(GOLDEN[name], rel=TOLERANCE)


@pytest.mark.parametrize("name", ["tiny, lora", "tiny, nf4"])
@pytest.mark.parametrize("how", SAME_NUMBERS)
def test_the_way_a_step_is_computed_does_not_change_its_loss(album, spec, run, how, name):
    write_rows(album)
    found = losses(spec, run, "run", name, **SAME_NUMBERS[how])
    assert found == pytest.approx(GOLDEN[name], rel=TOLERANCE)


@pytest.mark.parametrize("name", ["tiny, lora", "tiny, nf4"])
def test_many_short_rows_behind_each_other_lose_what_each_loses_in_a_row_of_its_own(album, spec, run, name):
    short = [album.question(f"{n} + {n}?", str(2 * n), images=int(n % 3 == 0), row=n) for n in range(1, 13)]
    long = [album.question("Which colours are these? " * 8, "red", images=3, row=n) for n in (13, 14)]
    album.write(*short, *long)
    asked = {"batch_size": 7, "micro_batch_size": "auto", "micro_batch_tokens": 400, "max_steps": 6}
    found = {}
    for packing in (True, False):
        with recorded_steps() as steps:
            found[packing] = losses(spec, run, f"packed {packing}", name, **asked, packing=packing)
        assert len(steps) == 6
        assert num_packed(steps) >= 4 if packing else num_packed(steps) == 0
    assert found[True] == pytest.approx(found[False], rel=TOLERANCE)
