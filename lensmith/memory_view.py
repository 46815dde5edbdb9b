"""A job's memory plan as a person sees it: its phases, and where the memory of the largest one goes."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lensmith.resources import MemoryPlan, PhaseMemory

_BAR = 32  # cells of the largest part


def draw(plan: MemoryPlan, console: Console) -> None:
    """Print the plan, and beside it what was held where the job has finished."""
    console.print(_headline(plan))
    console.print()
    console.print(_phases(plan))
    peak = next(phase for phase in plan.phases if phase.phase == plan.peak["phase"])
    console.print()
    console.print(Text(f"While {peak.phase}", style="bold"))
    console.print(_parts(peak))


def size(num_bytes: float) -> str:
    """Return bytes in words, three digits of them."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= step:
            value = num_bytes / step
            return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{num_bytes:,.0f} B"


def _headline(plan: MemoryPlan) -> Text:
    peak = plan.peak
    line = Text.assemble(
        ("Peak ", "bold"),
        (size(peak["expected"]), "bold cyan"),
        f" on {plan.device} while {peak['phase']}, between {size(peak['low'])} and {size(peak['high'])}",
    )
    if plan.measured is not None and plan.error is not None:
        line.append(f"; it held {size(plan.measured['peak'])} ({plan.error:+.1%} planned)")
    return line


def _phases(plan: MemoryPlan) -> Table:
    rows = Table("phase", "expected", "at most", "held", box=None, header_style="bold")
    for phase in plan.phases:
        held = "-" if phase.measured is None else size(phase.measured)
        rows.add_row(phase.phase, size(phase.expected), size(phase.high), held)
    return rows


def _parts(phase: PhaseMemory) -> Table:
    rows = Table(box=None, show_header=False)
    parts = sorted(phase.parts.items(), key=lambda part: -part[1])
    largest = parts[0][1]
    for name, held in parts:
        bar = "█" * max(1, round(_BAR * held / largest))
        rows.add_row(name, Text(bar, style="cyan"), Text(size(held), justify="right"), f"{held / phase.expected:.0%}")
    return rows
