"""Live progress bars: of a job, fed by its log, and of an upload."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from lensmith import uploads
from lensmith.client import Client
from lensmith.resources import Job, LogItem


@contextmanager
def uploading(console: Console) -> Iterator[uploads.Progress]:
    """Show that a file is sent, and of one in parts how much; yields what the SDK calls after every part.

    The upload's id is printed once, so that it is known whatever ends this process.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("uploading"),
        BarColumn(bar_width=28),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    shown: set[str] = set()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("uploading", total=None)

        def show(upload_id: str, there_bytes: int, size_bytes: int) -> None:
            if upload_id not in shown:
                shown.add(upload_id)
                console.print(f"in parts, as {upload_id}; if it breaks, the same command with --resume {upload_id}")
            progress.update(bar, completed=there_bytes, total=size_bytes)

        yield show


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
