"""Jobs that are given less memory than they would take: a real worker in a control group, limited to a share of that.

Each job leaves everything to us (`"auto"`). First it runs without a limit; then its worker may hold, beside an empty process,
100, 80 and 60 % of what the run held above one. It has to finish, and unless its base was put into 4 bits, with the same losses.
Needs root, because only root makes control groups. `docs/benchmarks.md` has the table.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.arms.processes import alone
from benchmarks.memory_grid.cases import DEPTHS, Case
from benchmarks.memory_grid.group import made
from core.process import calm_threads

CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "256m, 5 tiles": ("smolvlm-256m", 5, {}),
    "256m, 5 tiles, no cache": ("smolvlm-256m", 5, {"hyperparameters": {"feature_cache": False}}),
    "256m, 13 tiles, lora": ("smolvlm-256m", 13, {"method": {"type": "lora"}}),
    "256m, long texts": ("smolvlm-256m", 1, {}),
    "2.2b, 1 tile": ("smolvlm-2.2b", 1, {"method": {"type": "auto", "r": 64}}),
}


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", help="only those whose name has this in it")
    asked = parser.parse_args()
    calm_threads()
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    print("| job | limit | ended | attempts (killed) | held, MB | largest difference of a loss | chosen |")
    print("|---|---|---|---|---|---|---|")
    for row in _rows(asked.case):
        print(row, flush=True)


def _rows(wanted: str) -> Iterator[str]:
    from benchmarks.memory_grid import budgets, measure

    with tempfile.TemporaryDirectory() as name:
        for title, (base_name, tiles, request) in CASES.items():
            if wanted not in title:
                continue
            print(title, file=sys.stderr, flush=True)
            base = Path(name) / base_name
            if not base.exists():
                base.mkdir()
                alone(measure.write_base, base, base_name, DEPTHS[base_name])
            texts = (20, 1200) if "long" in title else (40, 60)
            case = Case(base=base_name, tiles=tiles, micro_batch=4, question_tokens=texts)
            dataset, scratch = measure.dataset(Path(name), case), Path(tempfile.mkdtemp(dir=name))
            asked = {"hyperparameters": {}} | request
            asked["hyperparameters"] = {"epochs": 2, "batch_size": 8, "precision": "bf16"} | asked["hyperparameters"]
            asked["image"] = {"longest_edge": case.edge_in_tiles * measure.side_px(case)}
            with made(f"lensmith-{os.getpid()}") as group:
                free, *limited = alone(budgets.run, group, base, dataset, scratch, asked)
            shutil.rmtree(scratch)
            for each in (free, *limited):
                limit = "none" if each.share is None else f"{each.share:.0%}"
                apart = max((abs(a - b) for a, b in zip(each.losses, free.losses, strict=False)), default=0.0)
                chosen = "; ".join(choice.split(":")[0] for choice in each.choices) or "nothing"
                tries = f"{each.attempts} ({each.kills})"
                yield f"| {title} | {limit} | {each.state} | {tries} | {each.held_bytes / 1e6:,.0f} | {apart:.1e} | {chosen} |"


if __name__ == "__main__":
    main()
