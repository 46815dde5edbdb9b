"""Memory plans against what real runs hold: every run plans, trains, validates and publishes in a process of its own.

Widths of SmolVLM-256M and 2.2B at reduced depth, random weights; 1, 5 and 13 tiles, micro-batches of 1, 2 and 4, nf4, int8
and no quantization, checkpointing, feature cache on and off, and single cases of everything else. The error is that of the
peak of resident memory above the empty process. `--fit` writes `training/calibration.json` from the runs; `--load` takes runs
of before. `docs/benchmarks.md` has the table.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.arms.processes import alone
from benchmarks.memory_grid.cases import DEPTHS, Case, fast, grid
from benchmarks.memory_grid.figures import Figures
from benchmarks.memory_grid.fit import fitted
from core.process import calm_threads
from training.calibration import FILE, calibration

Run = tuple[Case, Figures]


def main() -> None:
    """Run the cases, print the table, and write the calibration where that is asked for."""
    options = _options()
    calm_threads()
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    cases = [case for case in (*grid(), *(fast() if options.fast else ())) if options.case in case.name]
    if options.load is not None:
        known = {name: Figures.model_validate(found) for name, found in json.loads(options.load.read_text()).items()}
        runs = [(case, known[case.name]) for case in cases if case.name in known]
    else:
        runs = list(_measured(cases))
    if options.save is not None:
        options.save.write_text(json.dumps({case.name: run.model_dump(mode="json") for case, run in runs}))
    print(_table(runs))
    if options.fit:
        source = f"benchmarks.memory, {len(runs)} runs, {datetime.now(UTC):%Y-%m-%d}"
        compact, kept = ([run for case, run in runs if case.compact is way] for way in (True, False))
        found = fitted(compact, kept, calibration(), source=source)
        FILE.write_text(found.model_dump_json(indent=2) + "\n")


def _measured(cases: Sequence[Case]) -> Iterator[Run]:
    from benchmarks.memory_grid import measure

    with tempfile.TemporaryDirectory() as name:
        for number, case in enumerate(cases, start=1):
            base = Path(name) / case.base
            if not base.exists():
                base.mkdir()
                alone(measure.write_base, base, case.base, DEPTHS[case.base])
            scratch = Path(tempfile.mkdtemp(dir=name))
            run = alone(measure.run, case, base, measure.dataset(Path(name), case), scratch)
            shutil.rmtree(scratch)
            print(f"{number}/{len(cases)} {case.name}: {run.error:+.1%}", file=sys.stderr, flush=True)
            yield case, run


def _table(runs: Sequence[Run]) -> str:
    lines = ["| run | expected, MB | held, MB | error |", "|---|---|---|---|"]
    for case, run in runs:
        lines.append(
            f"| {case.name} | {run.expected_bytes / 1e6:,.0f} | {run.held_bytes / 1e6:,.0f} | {run.error:+.1%} |"
        )
    for title, compact in (("memory given back at once", True), ("fast allocator", False)):
        errors = [abs(run.error) for case, run in runs if case.compact is compact]
        if errors:
            lines.append(
                f"\n{title}: {len(errors)} runs, mean error {statistics.mean(errors):.1%}, worst {max(errors):.1%}"
            )
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", help="only those whose name has this in it, such as '5 tiles'")
    parser.add_argument("--fast", action="store_true", help="the allocator as it is by default as well")
    parser.add_argument("--fit", action="store_true", help="write the calibration from these runs")
    parser.add_argument("--save", type=Path, help="write the runs there, as JSON")
    parser.add_argument("--load", type=Path, help="take the runs from there instead")
    return parser.parse_args()


if __name__ == "__main__":
    main()
