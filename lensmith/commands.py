"""The SDK's commands: nouns, then verbs. Data goes to standard output, progress to standard error.

Exit status: 0 done, 1 the job failed or was refused, 2 usage, 3 the data was refused, 4 the server does not answer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from lensmith.client import Client
from lensmith.dataset_commands import datasets
from lensmith.progress import watch
from lensmith.reading import (
    json_object,
)
from lensmith.terminal import AsJson, BaseModelName, complain, err, out, show, speaks_http, table

jobs = typer.Typer(no_args_is_help=True, help="Jobs: create, follow, cancel.")
adapters = typer.Typer(no_args_is_help=True, help="Adapters: list, download.")


def add_commands(app: typer.Typer) -> None:
    """Mount every command that speaks HTTP."""
    app.add_typer(datasets, name="datasets")
    app.add_typer(jobs, name="jobs")
    app.add_typer(adapters, name="adapters")
    app.command("infer")(infer)


@jobs.command("create")
@speaks_http
def create_job(
    base_model: BaseModelName,
    dataset: Annotated[str, typer.Option(help="a data set that is ready")],
    options: Annotated[str, typer.Option(help='more of the body as JSON, {"hyperparameters": {…}}')] = "{}",
    *,
    follow: Annotated[bool, typer.Option(help="watch it until it ends")] = False,
) -> None:
    """Make a job."""
    more = json_object(options, "--options")
    if more.keys() & {"base_model", "dataset"}:
        raise typer.BadParameter("an object without base_model and dataset is wanted", param_hint="--options")
    with Client() as client:
        job = client.jobs.create(base_model=base_model, dataset=dataset, **more)
        out.print(job.id)
        if follow:
            _follow(client, job.id)


@jobs.command("list")
@speaks_http
def list_jobs(
    state: Annotated[str | None, typer.Option(help="only jobs in this state")] = None, *, as_json: AsJson = False
) -> None:
    """List jobs, newest first."""
    with Client() as client:
        table(client.jobs.list(state=state), ("id", "name", "state", "phase", "base_model", "adapter"), as_json=as_json)


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


@adapters.command("list")
@speaks_http
def list_adapters(*, as_json: AsJson = False) -> None:
    """List adapters, newest first."""
    with Client() as client:
        table(client.adapters.list(), ("id", "name", "state", "base_model", "size_bytes"), as_json=as_json)


@adapters.command("download")
@speaks_http
def download_adapter(
    adapter_id: str, to: Annotated[Path | None, typer.Option(help="the zip to write [default: <id>.zip]")] = None
) -> None:
    """Download an adapter as a zip that PEFT loads."""
    with Client() as client:
        typer.echo(client.adapters.download(adapter_id, to or Path(f"{adapter_id}.zip")))


@speaks_http
def infer(
    prompt: str,
    image: Annotated[list[Path] | None, typer.Option(exists=True, help="a picture; repeat it for several")] = None,
    adapter: Annotated[str | None, typer.Option(help="id of an adapter")] = None,
    model: Annotated[str | None, typer.Option(help="a base model, without an adapter")] = None,
    max_tokens: int = 128,
) -> None:
    """Ask about pictures."""
    with Client() as client:
        answer = client.infer(prompt, images=image or (), adapter=adapter, model=model, max_tokens=max_tokens)
    typer.echo(answer.text)


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
