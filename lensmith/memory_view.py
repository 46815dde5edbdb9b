"""A job's memory plan as a person sees it: its phases, and where the memory of the largest one goes."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lensmith.resources import DryRun, Duration, Foresight, MemoryPlan, PhaseMemory

_BAR = 32  # cells of the largest part


def draw(plan: Foresight, console: Console) -> None:
    """Print a plan: whether it fits, or what was held where the job has finished; then where the memory goes."""
    console.print(_headline(plan))
    if isinstance(plan, DryRun) and plan.budget_gb is not None:
        console.print(_verdict(plan, plan.budget_gb))
    if plan.time is not None:
        console.print(_duration(plan.time))
    for choice in plan.choices:
        console.print(Text.assemble(("· ", "cyan"), choice))
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


def span(seconds: float) -> str:
    """Return a time in words, as coarse as it is long."""
    for unit, step in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * step:
            return f"{seconds / step:,.0f} {unit}"
    return f"{seconds:,.0f} s"


def _verdict(plan: DryRun, budget_gb: float) -> Text:
    if plan.fits:
        return Text.assemble(
            ("Fits ", "bold green"), f"{budget_gb:g} GB; at the least it needs {plan.smallest_gb:g} GB"
        )
    return Text.assemble(("Does not fit ", "bold red"), f"{budget_gb:g} GB; it needs {plan.smallest_gb:g} GB")


def _duration(time: Duration) -> Text:
    work = f"{time.steps:,} steps over {time.examples:,} examples, {time.tokens:,} tokens"
    if time.seconds is None:
        return Text(f"{work}; {time.source}")
    low, high = span(time.seconds.low), span(time.seconds.high)
    return Text.assemble(
        ("Time ", "bold"),
        (span(time.seconds.expected), "bold cyan"),
        f", between {low} and {high} ({time.source}): {work}",
    )


def _headline(plan: Foresight) -> Text:
    peak = plan.peak
    line = Text.assemble(
        ("Peak ", "bold"),
        (size(peak["expected"]), "bold cyan"),
        f" on {plan.place or plan.device} while {peak['phase']}, between {size(peak['low'])} and {size(peak['high'])}",
    )
    if isinstance(plan, MemoryPlan) and plan.measured is not None and plan.error is not None:
        line.append(f"; it held {size(plan.measured['peak'])} ({plan.error:+.1%} planned)")
    return line


def _phases(plan: Foresight) -> Table:
    rows = Table("phase", "expected", "at most", "held", box=None, header_style="bold")
    for phase in plan.phases:
        held = "-" if phase.measured is None else size(phase.measured)
        rows.add_row(phase.phase, size(phase.expected), size(phase.high), held)
    return rows


def _parts(phase: PhaseMemory) -> Table:
    rows = Table(box=None, show_header=False)
    parts = sorted(((name, held) for name, held in phase.parts.items() if held), key=lambda part: -part[1])
    largest = parts[0][1]
    for name, held in parts:
        bar = "█" * max(1, round(_BAR * held / largest))
        rows.add_row(name, Text(bar, style="cyan"), Text(size(held), justify="right"), f"{held / phase.expected:.0%}")
    return rows
