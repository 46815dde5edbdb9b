"""A live progress bar of a job, fed by its log."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lensmith.client import Client
from lensmith.resources import Job, LogItem


def watch(client: Client, job_id: str, console: Console) -> Job:
    """Show a job's progress until it ends, and return it. Plain lines where there is no terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<11}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("queued", total=None, figures="")
        for item in client.jobs.follow(job_id, kind="metric,event"):
            phase = (item.data or {}).get("phase")
            if phase is not None:
                progress.update(bar, description=phase)
            if item.kind == "metric" and item.data is not None:
                progress.update(
                    bar, completed=item.data.get("step"), total=item.data.get("total_steps"), figures=figures(item)
                )
            if not console.is_terminal:
                console.print(_line(item), markup=False)
    return client.jobs.get(job_id)


def figures(item: LogItem) -> str:
    """Return the figures of a metric as they stand beside the bar."""
    data = item.data or {}
    shown = (
        ("loss", data.get("loss"), "{:.4f}"),
        ("eval loss", data.get("eval_loss"), "{:.4f}"),
        ("ex/s", data.get("examples_per_s"), "{:.1f}"),
        ("ETA s", data.get("eta_s"), "{:.0f}"),
    )
    return "  ".join(f"{name} {form.format(value)}" for name, value, form in shown if value is not None)


def _line(item: LogItem) -> str:
    data = item.data or {}
    if item.kind == "metric":
        return f"step {data.get('step')}/{data.get('total_steps')}  {figures(item)}"
    return item.message or item.kind
