"""Options that several commands share: how a data set is called, read and measured, and how pictures are cut."""

import json
from typing import Annotated, Any

import typer

DatasetName = Annotated[str | None, typer.Option(help="what to call it")]
Columns = Annotated[str | None, typer.Option(help='your names, {"image": "img_path", "answer": "label"}')]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="leave them out; the report lists them")]
MeasuredFor = Annotated[
    str | None, typer.Option("--base-model", help="measure the rows for it; one that a job would refuse is a bad row")
]
LongestEdge = Annotated[int | None, typer.Option(min=32, max=4096, help="image.longest_edge of the job")]
Split = Annotated[bool | None, typer.Option("--split/--no-split", help="image.split of the job")]
Upscale = Annotated[bool | None, typer.Option("--upscale/--no-upscale", help="image.upscale of the job")]


def reading(name: str | None, columns: str | None, *, skip_bad_rows: bool) -> dict[str, Any]:
    """Return how a data set is to be called and read, as the SDK takes it."""
    mapping = json_object(columns, "--columns") if columns is not None else None
    return {"name": name, "columns": mapping, "on_bad_row": "skip" if skip_bad_rows else None}


def measuring(
    base_model: str | None, longest_edge: int | None, *, split: bool | None, upscale: bool | None
) -> dict[str, Any]:
    """Return for which base the rows are to be measured, as the SDK takes it."""
    options = (("longest_edge", longest_edge), ("split", split), ("upscale", upscale))
    return {"base_model": base_model, "image": {name: value for name, value in options if value is not None}}


def json_object(text: str, option: str) -> dict[str, Any]:
    """Return the JSON object that an option holds."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=option) from error
    if not isinstance(value, dict):
        raise typer.BadParameter("a JSON object is wanted", param_hint=option)
    return value
