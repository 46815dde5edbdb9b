"""The SDK's commands: nouns, then verbs. Data goes to standard output, progress to standard error.

Exit status: 0 done, 1 the job failed or was refused, 2 usage, 3 the data was refused, 4 the server does not answer.
"""

from pathlib import Path
from typing import Annotated

import typer

from lensmith.client import Client
from lensmith.dataset_commands import datasets
from lensmith.job_commands import jobs
from lensmith.terminal import AsJson, speaks_http, table

adapters = typer.Typer(no_args_is_help=True, help="Adapters: list, download.")


def add_commands(app: typer.Typer) -> None:
    """Mount every command that speaks HTTP."""
    app.add_typer(datasets, name="datasets")
    app.add_typer(jobs, name="jobs")
    app.add_typer(adapters, name="adapters")
    app.command("infer")(infer)


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
