"""The commands of jobs and of batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from lensmith.client import Client
from lensmith.memory_view import draw
from lensmith.progress import watch
from lensmith.reading import json_object
from lensmith.resources import Foresight
from lensmith.terminal import AsJson, BaseModelName, ask, complain, err, out, show, speaks_http, table

jobs = typer.Typer(no_args_is_help=True, help="Jobs: create, follow, pause, resume, cancel, retry, delete.")
batches = typer.Typer(no_args_is_help=True, help="Batches: one job for every combination of some values.")
jobs.add_typer(batches, name="batch")


@jobs.command("create")
@speaks_http
def create_job(
    base_model: BaseModelName,
    dataset: Annotated[str, typer.Option(help="a data set that is ready")],
    options: Annotated[str, typer.Option(help='more of the body as JSON, {"hyperparameters": {…}}')] = "{}",
    device: Annotated[str | None, typer.Option(help="of a dry run: a card such as l4, or cpu")] = None,
    *,
    follow: Annotated[bool, typer.Option(help="watch it until it ends")] = False,
    dry_run: Annotated[bool, typer.Option(help="make nothing: show what it would hold and take")] = False,
) -> None:
    """Make a job."""
    more = json_object(options, "--options")
    if more.keys() & {"base_model", "dataset"}:
        raise typer.BadParameter("an object without base_model and dataset is wanted", param_hint="--options")
    if device is not None and not dry_run:
        raise typer.BadParameter("goes with --dry-run", param_hint="--device")
    with Client() as client:
        if dry_run:
            _draw(client.jobs.dry_run(base_model=base_model, dataset=dataset, device=device, **more))
            return
        job = client.jobs.create(base_model=base_model, dataset=dataset, **more)
        out.print(job.id)
        if follow:
            _follow(client, job.id)


@jobs.command("list")
@speaks_http
def list_jobs(
    state: Annotated[str | None, typer.Option(help="only jobs in this state")] = None,
    batch: Annotated[str | None, typer.Option(help="only jobs of this batch")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with Client() as client:
        table(
            client.jobs.list(state=state, batch=batch),
            ("id", "name", "state", "phase", "base_model", "adapter"),
            as_json=as_json,
        )


@jobs.command("clone")
@speaks_http
def clone_job(
    job_id: str,
    changes: Annotated[str, typer.Option(help='what differs as JSON, {"method": {"r": 16}}')] = "{}",
    *,
    follow: Annotated[bool, typer.Option(help="watch it until it ends")] = False,
) -> None:
    """Make a job as another one was made, but for some changes."""
    with Client() as client:
        job = client.jobs.clone(job_id, **json_object(changes, "--changes"))
        out.print(job.id)
        if follow:
            _follow(client, job.id)


@jobs.command("show")
@speaks_http
def show_job(job_id: str) -> None:
    """Show a job."""
    with Client() as client:
        show(client.jobs.get(job_id))


@jobs.command("watch")
@speaks_http
def watch_job(job_id: str) -> None:
    """Show a live progress bar until the job ends; Ctrl-C leaves, the job goes on."""
    with Client() as client:
        _follow(client, job_id)


@jobs.command("logs")
@speaks_http
def log_job(
    job_id: str,
    kind: Annotated[str | None, typer.Option(help="log,metric,event,sample,checkpoint")] = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the job ends")] = False,
) -> None:
    """Print a job's log as JSON lines."""
    with Client() as client:
        read = client.jobs.follow if follow else client.jobs.logs
        for item in read(job_id, kind=kind):
            typer.echo(item.model_dump_json())


@jobs.command("cancel")
@speaks_http
def cancel_job(job_id: str) -> None:
    """Ask for the end of a job."""
    with Client() as client:
        out.print(client.jobs.cancel(job_id).state)


@jobs.command("pause")
@speaks_http
def pause_job(job_id: str) -> None:
    """Ask a running job to save and to free its device."""
    with Client() as client:
        out.print(client.jobs.pause(job_id).state)


@jobs.command("resume")
@speaks_http
def resume_job(job_id: str) -> None:
    """Queue a paused job; it goes on from its last checkpoint."""
    with Client() as client:
        out.print(client.jobs.resume(job_id).state)


@jobs.command("retry")
@speaks_http
def retry_job(
    job_id: str,
    *,
    from_checkpoint: Annotated[
        bool, typer.Option("--from-checkpoint/--from-start", help="where to begin: forget the checkpoints, or not")
    ] = True,
) -> None:
    """Queue a job that failed or was cancelled: the same id, a new attempt."""
    with Client() as client:
        out.print(client.jobs.retry(job_id, from_checkpoint=from_checkpoint).state)


@jobs.command("delete")
@speaks_http
def delete_job(job_id: str, *, yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False) -> None:
    """Delete a job that has ended, and its checkpoints; its adapter stays."""
    if not yes:
        ask(f"Delete the job {job_id} and its checkpoints?")
    with Client() as client:
        client.jobs.delete(job_id)


@jobs.command("attempts")
@speaks_http
def list_attempts(job_id: str, *, as_json: AsJson = False) -> None:
    """List every attempt at a job, oldest first."""
    columns = ("number", "outcome", "worker", "resumed_step", "started_at", "ended_at")
    with Client() as client:
        table(iter(client.jobs.attempts(job_id)), columns, as_json=as_json)


@jobs.command("checkpoints")
@speaks_http
def list_checkpoints(job_id: str, *, as_json: AsJson = False) -> None:
    """List the checkpoints that a job can go on from, the newest first."""
    columns = ("id", "step", "attempt", "size_bytes", "created_at")
    with Client() as client:
        table(iter(client.jobs.checkpoints(job_id)), columns, as_json=as_json)


@jobs.command("plan")
@speaks_http
def show_plan(job_id: str, *, as_json: AsJson = False) -> None:
    """Show where a job's memory goes, and what it held once it has finished."""
    with Client() as client:
        plan = client.jobs.plan(job_id)
    _draw(plan, as_json=as_json)


@jobs.command("metrics")
@speaks_http
def list_metrics(job_id: str, *, as_json: AsJson = False) -> None:
    """Print a job's curve in the order of its steps."""
    with Client() as client:
        table(client.jobs.metrics(job_id), ("step", "epoch", "attempt", "figures"), as_json=as_json)


@batches.command("create")
@speaks_http
def create_batch(
    grid: Annotated[str, typer.Option(help='the values of each field as JSON, {"method.r": [8, 16]}')],
    job: Annotated[
        str, typer.Option(help='the job as JSON, {"base_model": …, "dataset": …}; what the grid sets may miss')
    ],
    name: Annotated[str | None, typer.Option(help="what to call it")] = None,
) -> None:
    """Make one job for every combination of the grid's values."""
    with Client() as client:
        made = client.jobs.batches.create(json_object(job, "--job"), json_object(grid, "--grid"), name=name)
        out.print(made.id)


@batches.command("list")
@speaks_http
def list_batches(*, as_json: AsJson = False) -> None:
    """List batches, newest first."""
    with Client() as client:
        table(client.jobs.batches.list(), ("id", "name", "num_jobs", "states"), as_json=as_json)


@batches.command("show")
@speaks_http
def show_batch(batch_id: str) -> None:
    """Show a batch: how each of its jobs stands, and which is the best so far."""
    with Client() as client:
        show(client.jobs.batches.get(batch_id))


@batches.command("cancel")
@speaks_http
def cancel_batch(batch_id: str) -> None:
    """Ask for the end of every job of a batch that has not ended."""
    with Client() as client:
        table(iter(client.jobs.batches.cancel(batch_id).jobs), ("id", "name", "state"), as_json=False)


def _follow(client: Client, job_id: str) -> None:
    with _detaching(job_id):
        job = watch(client, job_id, err)
    if job.state != "succeeded":
        reason = f": {job.failure.detail} {job.failure.remedy}" if job.failure else ""
        complain(f"{job.state}{reason}")
        raise typer.Exit(1)
    out.print(f"adapter {job.adapter}")


@contextmanager
def _detaching(job_id: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        err.print(f"\nThe job goes on; `lensmith jobs watch {job_id}` takes it up again.")
        raise typer.Exit(0) from error


def _draw(plan: Foresight, *, as_json: bool = False) -> None:
    if as_json or not out.is_terminal:
        show(plan)
    else:
        draw(plan, out)
