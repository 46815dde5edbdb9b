"""The commands of data sets. Data goes to standard output, progress to standard error."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from lensmith.client import Client
from lensmith.preview import show_preview
from lensmith.progress import uploading
from lensmith.reading import (
    Columns,
    DatasetName,
    LongestEdge,
    MeasuredFor,
    SkipBadRows,
    Split,
    Upscale,
    measuring,
    reading,
)
from lensmith.resources import Dataset
from lensmith.terminal import DATA_REFUSED, AsJson, BaseModelName, ask, complain, err, out, show, speaks_http, table

datasets = typer.Typer(no_args_is_help=True, help="Data sets: upload, look at, read the report, delete.")


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
    upscale: Upscale = None,
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Upload a data set and wait for its validation; exit status 3 when it is refused.

    A folder is zipped on the way, without names that begin with a dot. What is large goes in parts.
    """
    asked = reading(name, columns, skip_bad_rows=skip_bad_rows)
    asked |= measuring(base_model, longest_edge, split=split, upscale=upscale)
    with Client() as client:
        with uploading(err) as show:
            uploaded = client.datasets.upload(file, resume=resume, on_progress=show, **asked)
        with err.status("validating"):
            dataset = client.datasets.wait(uploaded.id)
    _judge(dataset)


@datasets.command("create")
@partial(speaks_http, refuses_data=True)
def create_dataset(  # noqa: PLR0913 - one for each option
    source: Annotated[
        str, typer.Argument(help="https://..., s3://bucket/key or hf://org/name, as far as the operator allows")
    ],
    name: DatasetName = None,
    columns: Columns = None,
    base_model: MeasuredFor = None,
    longest_edge: LongestEdge = None,
    *,
    split: Split = None,
    upscale: Upscale = None,
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Have the server fetch a data set, and wait for its validation; exit status 3 when it is refused."""
    asked = reading(name, columns, skip_bad_rows=skip_bad_rows)
    asked |= measuring(base_model, longest_edge, split=split, upscale=upscale)
    with Client() as client, err.status("fetching and validating"):
        made = client.datasets.create(source, **asked)
        dataset = client.datasets.wait(made.id)
    _judge(dataset)


def _judge(dataset: Dataset) -> None:
    """Print a data set that was validated, or say why it was refused."""
    if dataset.failure is not None:
        complain(f"{dataset.failure.detail} {dataset.failure.remedy}")
        if dataset.failure.code != "bad_data":
            raise typer.Exit(1)
        err.print(f"  every issue: lensmith datasets report {dataset.id}")
        raise typer.Exit(DATA_REFUSED)
    if dataset.num_skipped:
        err.print(f"  {dataset.num_skipped} rows were left out, listed by: lensmith datasets report {dataset.id}")
    show(dataset)


@datasets.command("list")
@speaks_http
def list_datasets(*, as_json: AsJson = False) -> None:
    """List data sets, newest first."""
    with Client() as client:
        table(client.datasets.list(), ("id", "name", "state", "num_examples", "num_issues"), as_json=as_json)


@datasets.command("show")
@speaks_http
def show_dataset(dataset_id: str) -> None:
    """Show a data set."""
    with Client() as client:
        show(client.datasets.get(dataset_id))


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
        ask(f"Delete the data set {dataset_id}?")
    with Client() as client:
        client.datasets.delete(dataset_id)
    err.print(Text(f"deleted {dataset_id}"))


@datasets.command("preview")
@speaks_http
def preview_dataset(  # noqa: PLR0913 - one for each option
    dataset_id: str,
    base_model: BaseModelName,
    row: Annotated[int, typer.Option(help="its number in the report")],
    file: Annotated[str | None, typer.Option(help="which of several files that have this row")] = None,
    longest_edge: LongestEdge = None,
    *,
    split: Split = None,
    upscale: Upscale = None,
    as_json: AsJson = False,
) -> None:
    """Show what a base model sees of one row; what it learns is highlighted, or in brackets where there is no colour."""
    with Client() as client:
        preview = client.datasets.preview(
            dataset_id,
            base_model=base_model,
            row=row,
            file=file,
            longest_edge=longest_edge,
            split=split,
            upscale=upscale,
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
