"""Fine-tuning against two stock recipes in one run: examples/s, peak memory, operations and losses over three epochs.

(a) `cookbook`: the Hugging Face cookbook's recipe for SmolVLM; (b) `stock`: TRL with the adapter that Lensmith makes, and
`plain`: the same without gradient checkpointing;
(c) `lensmith`: a job as it runs by default, and `exact`: the same without packing and token budgets, step by step beside (b).
SmolVLM-256M's widths at a sixth of its depth, random weights. Every run is a process of its own, the arms in turn; peaks are above
those of a process that only imported the same libraries; operations are counted in a pass of their own that is not timed.
`docs/benchmarks.md` says more of the method; the table printed here goes there.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from benchmarks.arms import table, workload
from benchmarks.arms.figures import Arm, Figures, Plan, median
from benchmarks.arms.processes import alone
from benchmarks.arms.workload import WORKLOADS, Workload
from core.process import calm_threads
from vlm.precision import Precision

BASE = "smolvlm-256m"
DEPTH, QUICK_DEPTH = (2, 5), (1, 2)  # layers of vision and text; the whole model has 12 and 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asks for."""

    workloads: list[Workload]
    arms: list[Arm]
    rounds: int
    precision: Precision | None
    depth: tuple[int, int]
    counts_flops: bool | None
    output: Path | None


def main() -> None:
    """Make the base and the sets, run every arm on every set, print the table."""
    options = _options()
    calm_threads()  # of the runs
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    from benchmarks.arms import run

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = folder / "base"
        base.mkdir()
        machine = alone(run.prepare, base, BASE, options.depth)
        precision = options.precision or machine.precision
        written = [table.heading(machine, BASE, options.depth, precision, options.rounds)]
        print(written[0], flush=True)
        for each in options.workloads:
            found = _compare(folder / each.name, base, each, options, precision)
            written.append(table.section(each, found, machine.empty_bytes))
            print(f"\n{written[-1]}", flush=True)
    if options.output is not None:
        options.output.write_text("\n\n".join(written) + "\n")


def _compare(folder: Path, base: Path, each: Workload, options: Options, precision: Precision) -> dict[Arm, Figures]:
    """Return the medians of every arm on one set."""
    from benchmarks.arms.run import run

    train, validation = workload.write(folder, each)
    arms = options.arms or [arm for arm in get_args(Arm) if each.is_headline or arm not in ("exact", "plain")]
    counts_flops = each.is_headline if options.counts_flops is None else options.counts_flops
    runs: dict[Arm, list[Figures]] = {arm: [] for arm in arms}
    flops: dict[Arm, int | None] = {}
    for round_number in range(options.rounds + counts_flops):
        for arm in arms:
            counts = round_number == options.rounds
            plan = Plan(
                arm=arm,
                base=base,
                train=train,
                validation=validation,
                longest_edge_px=each.longest_edge_px,
                precision=precision,
                counts_flops=counts,
                scratch=folder / f"{arm}-{round_number}",
            )
            plan.scratch.mkdir()
            figures = alone(run, plan)
            if counts:
                flops[arm] = figures.flops
            else:
                runs[arm].append(figures)
                print(f"  {each.name} {arm}: {figures.total_s:.1f} s", file=sys.stderr, flush=True)
    return {arm: median(runs[arm]).model_copy(update={"flops": flops.get(arm)}) for arm in arms}


def _options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [each.name for each in WORKLOADS]
    parser.add_argument("--geometry", action="append", choices=names, help="may be repeated; default: all")
    parser.add_argument(
        "--arm",
        action="append",
        choices=get_args(Arm),
        help="may be repeated; default: all, `exact` and `plain` where the goals are set",
    )
    parser.add_argument("--rounds", type=int, default=1, help="times every arm is run; medians are taken")
    parser.add_argument(
        "--precision", choices=get_args(Precision), help="of every arm; default: what this machine does best"
    )
    parser.add_argument("--depth", type=int, nargs=2, metavar=("VISION", "TEXT"), default=DEPTH, help="layers")
    parser.add_argument(
        "--flops", action=argparse.BooleanOptionalAction, help="count operations; default: where the goals are set"
    )
    parser.add_argument("--quick", action="store_true", help="two layers of text, one of vision, four examples")
    parser.add_argument("--output", type=Path, help="write the table there, as Markdown")
    asked = parser.parse_args()
    chosen = [each for each in WORKLOADS if each.name in (asked.geometry or names)]
    return Options(
        workloads=[workload.scaled_down(each) for each in chosen] if asked.quick else chosen,
        arms=[arm for arm in get_args(Arm) if arm in (asked.arm or ())],
        rounds=asked.rounds,
        precision=asked.precision,
        depth=QUICK_DEPTH if asked.quick else tuple(asked.depth),
        counts_flops=asked.flops,
        output=asked.output,
    )


if __name__ == "__main__":
    main()
