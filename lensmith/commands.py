"""The SDK's commands: nouns, then verbs. Data goes to standard output, progress to standard error.

Exit status: 0 done, 1 the job failed or was refused, 2 usage, 3 the data was refused, 4 the server does not answer.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lensmith.client import Client
from lensmith.errors import ApiError, NotUploadable, Unreachable
from lensmith.preview import show_preview
from lensmith.progress import uploading, watch
from lensmith.reading import (
    Columns,
    DatasetName,
    LongestEdge,
    MeasuredFor,
    SkipBadRows,
    Split,
    json_object,
    measuring,
    reading,
)
from lensmith.resources import Dataset

DATA_REFUSED = 3
REFUSED = 422

P = ParamSpec("P")
T = TypeVar("T")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

datasets = typer.Typer(no_args_is_help=True, help="Data sets: upload, look at, read the report, delete.")
jobs = typer.Typer(no_args_is_help=True, help="Jobs: create, follow, cancel.")
adapters = typer.Typer(no_args_is_help=True, help="Adapters: list, download.")

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
BaseModelName = Annotated[str, typer.Option(help="an id of the catalogue, a Hub id or a local folder")]


def add_commands(app: typer.Typer) -> None:
    """Mount every command that speaks HTTP."""
    app.add_typer(datasets, name="datasets")
    app.add_typer(jobs, name="jobs")
    app.add_typer(adapters, name="adapters")
    app.command("infer")(infer)


def speaks_http(command: Callable[P, T], *, refuses_data: bool = False) -> Callable[P, T]:
    """Turn the SDK's errors into one sentence and an exit status; `refuses_data`: a 422 is about the data itself."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except Unreachable as error:
            _complain(f"{error}. Is it running? `lensmith up` starts it; LENSMITH_URL says where it is.")
            raise typer.Exit(4) from error
        except NotUploadable as error:
            _complain(str(error))
            raise typer.Exit(DATA_REFUSED) from error
        except ApiError as error:
            _complain(f"{error.title}: {error.detail}")
            raise typer.Exit(DATA_REFUSED if refuses_data and error.status == REFUSED else 1) from error

    return wrapped


@datasets.command("upload")
@partial(speaks_http, refuses_data=True)
def upload_dataset(  # noqa: PLR0913 - one for each option
    file: Annotated[Path, typer.Argument(exists=True, help="zip, tar, tar.gz, JSONL, Parquet, or a folder")],
    name: DatasetName = None,
    columns: Columns = None,
    base_model: MeasuredFor = None,
    longest_edge: LongestEdge = None,
    resume: Annotated[str | None, typer.Option(help="the id of an upload in parts that broke")] = None,
    *,
    split: Split = None,
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Upload a data set and wait for its validation; exit status 3 when it is refused.

    A folder is zipped on the way, without names that begin with a dot. What is large goes in parts.
    """
    asked = reading(name, columns, skip_bad_rows=skip_bad_rows) | measuring(base_model, longest_edge, split=split)
    with Client() as client:
        with uploading(err) as show:
            uploaded = client.datasets.upload(file, resume=resume, on_progress=show, **asked)
        with err.status("validating"):
            dataset = client.datasets.wait(uploaded.id)
    _judge(dataset)


@datasets.command("create")
@partial(speaks_http, refuses_data=True)
def create_dataset(
    source: Annotated[
        str, typer.Argument(help="https://..., s3://bucket/key or hf://org/name, as far as the operator allows")
    ],
    name: DatasetName = None,
    columns: Columns = None,
    base_model: MeasuredFor = None,
    longest_edge: LongestEdge = None,
    *,
    split: Split = None,
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Have the server fetch a data set, and wait for its validation; exit status 3 when it is refused."""
    asked = reading(name, columns, skip_bad_rows=skip_bad_rows) | measuring(base_model, longest_edge, split=split)
    with Client() as client, err.status("fetching and validating"):
        made = client.datasets.create(source, **asked)
        dataset = client.datasets.wait(made.id)
    _judge(dataset)


def _judge(dataset: Dataset) -> None:
    """Print a data set that was validated, or say why it was refused."""
    if dataset.failure is not None:
        _complain(f"{dataset.failure.detail} {dataset.failure.remedy}")
        if dataset.failure.code != "bad_data":
            raise typer.Exit(1)
        err.print(f"  every issue: lensmith datasets report {dataset.id}")
        raise typer.Exit(DATA_REFUSED)
    if dataset.num_skipped:
        err.print(f"  {dataset.num_skipped} rows were left out, listed by: lensmith datasets report {dataset.id}")
    _print(dataset)


@datasets.command("list")
@speaks_http
def list_datasets(*, as_json: AsJson = False) -> None:
    """List data sets, newest first."""
    with Client() as client:
        _table(client.datasets.list(), ("id", "name", "state", "num_examples", "num_issues"), as_json=as_json)


@datasets.command("show")
@speaks_http
def show_dataset(dataset_id: str) -> None:
    """Show a data set."""
    with Client() as client:
        _print(client.datasets.get(dataset_id))


@datasets.command("report")
@speaks_http
def report_dataset(dataset_id: str) -> None:
    """Print the report of a validation."""
    with Client() as client:
        out.print_json(json.dumps(client.datasets.report(dataset_id)))


@datasets.command("examples")
@speaks_http
def list_examples(
    dataset_id: str,
    split: Annotated[str | None, typer.Option(help="train or validation")] = None,
    issue: Annotated[str | None, typer.Option(help="a rule of the report")] = None,
    num_images: Annotated[int | None, typer.Option(help="examples with so many pictures")] = None,
) -> None:
    """Print the examples of a data set as JSON lines."""
    with Client() as client:
        for example in client.datasets.examples(dataset_id, split=split, issue=issue, num_images=num_images):
            typer.echo(example.model_dump_json())


@datasets.command("tokens")
@speaks_http
def count_tokens(
    dataset_id: str,
    base_model: BaseModelName,
    at_most: Annotated[int | None, typer.Option(help="how many examples to measure")] = None,
) -> None:
    """Print how long the examples of a data set are for a base model."""
    with Client() as client:
        out.print_json(json.dumps(client.datasets.tokens(dataset_id, base_model=base_model, at_most=at_most)))


@datasets.command("delete")
@speaks_http
def delete_dataset(
    dataset_id: str, *, yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False
) -> None:
    """Delete a data set; refused while a job uses it."""
    if not yes:
        _ask(f"Delete the data set {dataset_id}?")
    with Client() as client:
        client.datasets.delete(dataset_id)
    err.print(Text(f"deleted {dataset_id}"))


@datasets.command("preview")
@speaks_http
def preview_dataset(
    dataset_id: str,
    base_model: BaseModelName,
    row: Annotated[int, typer.Option(help="its number in the report")],
    file: Annotated[str | None, typer.Option(help="which of several files that have this row")] = None,
    longest_edge: LongestEdge = None,
    *,
    split: Split = None,
    as_json: AsJson = False,
) -> None:
    """Show what a base model sees of one row; what it learns is highlighted, or in brackets where there is no colour."""
    with Client() as client:
        preview = client.datasets.preview(
            dataset_id, base_model=base_model, row=row, file=file, longest_edge=longest_edge, split=split
        )
    if as_json:
        typer.echo(preview.model_dump_json())
    else:
        show_preview(preview, out)


@datasets.command("download")
@speaks_http
def download_dataset(
    dataset_id: str, to: Annotated[Path | None, typer.Option(help="the zip to write [default: <id>.zip]")] = None
) -> None:
    """Download a data set, repaired and without its refused rows, as a zip that can be uploaded."""
    with Client() as client:
        typer.echo(client.datasets.download(dataset_id, to or Path(f"{dataset_id}.zip")))


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
        _table(
            client.jobs.list(state=state), ("id", "name", "state", "phase", "base_model", "adapter"), as_json=as_json
        )


@jobs.command("show")
@speaks_http
def show_job(job_id: str) -> None:
    """Show a job."""
    with Client() as client:
        _print(client.jobs.get(job_id))


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
        _table(client.adapters.list(), ("id", "name", "state", "base_model", "size_bytes"), as_json=as_json)


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
        _complain(f"{job.state}{reason}")
        raise typer.Exit(1)
    out.print(f"adapter {job.adapter}")


@contextmanager
def _detaching(job_id: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        err.print(f"\nThe job goes on; `lensmith jobs watch {job_id}` takes it up again.")
        raise typer.Exit(0) from error


def _ask(question: str) -> None:
    """Go on after a yes; without a terminal nobody could give one, which is a usage error."""
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is no terminal to ask on; say --yes", param_hint="--yes")
    err.print(Text(f"{question} [y/N] "), end="")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        err.print("nothing was deleted")
        raise typer.Exit(1)


def _complain(sentence: str) -> None:
    """Say what is wrong; the words may be a user's or a model's, so nothing in them is markup."""
    err.print(Text.assemble(("✗", "red"), " ", sentence))


def _print(resource: BaseModel) -> None:
    out.print_json(resource.model_dump_json())


def _table(items: Iterator[Any], columns: tuple[str, ...], *, as_json: bool) -> None:
    if as_json or not out.is_terminal:
        for item in items:
            typer.echo(item.model_dump_json())
        return
    table = Table(*columns, box=None, header_style="bold")
    for item in items:
        table.add_row(*(Text("-" if (value := getattr(item, name)) is None else str(value)) for name in columns))
    out.print(table)
