"""The figures as rows of Markdown, and the machine in one line."""

import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from benchmarks.arms.figures import Arm, Figures, Machine, largest_difference
from benchmarks.arms.workload import EPOCHS, Workload
from vlm.precision import Precision

_HEAD = (
    "| set | arm | examples/s | epochs 1, 2, 3 | preparing, s | peak, MB | TFLOP | first and last loss | validation loss |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|--:|"
)
_LETTERS: dict[Arm, str] = {
    "cookbook": "(a)",
    "stock": "(b)",
    "plain": "(b), not checkpointed",
    "lensmith": "(c)",
    "exact": "(c), unpacked",
}


def heading(machine: Machine, base: str, depth: tuple[int, int], precision: Precision, rounds: int) -> str:
    """Return what was run, and on what, in a few lines."""
    layers = f"{depth[0]} layers of vision and {depth[1]} of text"
    run = (
        f"{base}, {layers}, {precision}, {EPOCHS} epochs, medians of {rounds}"
        if rounds > 1
        else f"{base}, {layers}, {precision}, {EPOCHS} epochs"
    )
    return f"{describe(machine)}\n{run}\nan empty process holds {machine.empty_bytes / 1e6:,.0f} MB"


def describe(machine: Machine) -> str:
    """Return what the numbers depend on, in one line."""
    info = Path("/proc/cpuinfo")  # Linux; elsewhere the flag is not known
    flag = "with" if info.exists() and "avx512_bf16" in info.read_text() else "without"
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")
    )
    return f"{machine.device.partition(',')[0]}, {os.cpu_count()} cores, {machine.threads} threads, {flag} avx512_bf16, {libraries}"


def section(workload: Workload, found: dict[Arm, Figures], empty_bytes: int) -> str:
    """Return a table with a row for each arm, and below it the comparisons in words."""
    lines = [_HEAD, *(_row(workload, arm, figures, empty_bytes) for arm, figures in found.items())]
    return "\n".join([*lines, *_comparisons(found, empty_bytes)])


def _row(workload: Workload, arm: Arm, figures: Figures, empty_bytes: int) -> str:
    speeds = ", ".join(f"{workload.num_train / seconds:.2f}" for seconds in figures.epochs_s)
    cells = (
        workload.title,
        f"{_LETTERS[arm]} {arm}" if "," not in _LETTERS[arm] else _LETTERS[arm],
        f"{EPOCHS * workload.num_train / figures.total_s:.2f}",
        speeds,
        f"{figures.preparing_s:.1f}",
        f"{(figures.peak_bytes - empty_bytes) / 1e6:,.0f}",
        "" if figures.flops is None else f"{figures.flops / 1e12:.2f}",
        f"{figures.losses[0]:.4f}, {figures.losses[-1]:.4f}",
        f"{figures.validation_loss:.4f}",
    )
    return f"| {' | '.join(cells)} |"


def _comparisons(found: dict[Arm, Figures], empty_bytes: int) -> Iterable[str]:
    ours = found.get("lensmith")
    for arm in ("cookbook", "stock", "plain"):
        other = found.get(arm)
        if ours is None or other is None:
            continue
        memory = (ours.peak_bytes - empty_bytes) / (other.peak_bytes - empty_bytes)
        work = f", {other.flops / ours.flops:.1f} x fewer operations" if ours.flops and other.flops else ""
        yield f"\n(c) against {_LETTERS[arm]}: {other.total_s / ours.total_s:.1f} x the examples/s, {memory:.2f} x the peak{work}."
    exact, stock = found.get("exact"), found.get("stock")
    if exact and stock:
        memory = (exact.peak_bytes - empty_bytes) / (stock.peak_bytes - empty_bytes)
        yield f"\n(c), unpacked, against (b): {stock.total_s / exact.total_s:.1f} x the examples/s, {memory:.2f} x the peak."
    if exact and stock:
        yield f"\n(c), unpacked, against (b), step by step: the losses differ by at most {largest_difference(exact, stock):.1e}."
    if ours and stock:
        change = ours.validation_loss / stock.validation_loss - 1
        yield f"\nValidation loss of (c) against (b): {change:+.3%}."
