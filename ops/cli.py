"""The `lensmith` command: the machine's own verbs here, the SDK's commands mounted beside them."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

import core
from core.settings import Settings
from lensmith.commands import add_commands
from lensmith.dataset_commands import datasets
from ops import data
from ops.backup import backup
from ops.check import check_command
from ops.errors import CannotStart
from ops.migrate import migrate
from ops.restore import restore
from ops.up import up

app = typer.Typer(
    name="lensmith",
    help="Fine-tune small vision-language models, and serve the adapters.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
add_commands(app)
datasets.command("check")(check_command)


@app.command("up")
def up_command(
    host: Annotated[str | None, typer.Option(help="address to bind [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="port of the API, 0 for a free one [default: 8000]")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="where everything is kept [default: ./.lensmith]")] = None,
) -> None:
    """Start the whole service on this machine; Ctrl-C stops it."""
    console = Console(highlight=False, soft_wrap=True)
    with _explained(console):
        raise typer.Exit(up(_settings(host=host, port=port, data_dir=data_dir), console))


@app.command("migrate")
def migrate_command() -> None:
    """Bring the database of LENSMITH_DATABASE_URL to the newest schema."""
    settings = _settings()
    with _explained(Console(highlight=False, soft_wrap=True)):
        data.make(settings.layout)
        migrate(settings)
    typer.echo("The database is at the newest schema.")


@app.command("backup")
def backup_command(
    file: Annotated[Path, typer.Argument(help="the .tar to write")],
    data_dir: Annotated[Path | None, typer.Option(help="of the service [default: ./.lensmith]")] = None,
) -> None:
    """Write the embedded database and its files into one file; the service may run."""
    with _explained(Console(highlight=False, soft_wrap=True)):
        members = backup(_settings(data_dir=data_dir), file)
    typer.echo(
        f"{file}: the database and {len(members) - 1:,} objects, {file.stat().st_size / 1e6:,.1f} MB, read back and verified."
    )


@app.command("restore")
def restore_command(
    file: Annotated[Path, typer.Argument(help="what `lensmith backup` wrote")],
    data_dir: Annotated[Path | None, typer.Option(help="an empty one [default: ./.lensmith]")] = None,
) -> None:
    """Make a data directory of a backup; what ran when it was taken is queued again."""
    settings = _settings(data_dir=data_dir)
    with _explained(Console(highlight=False, soft_wrap=True)):
        num_queued = restore(settings, file)
    typer.echo(
        f"{settings.data_dir} is restored; {num_queued} jobs and validations are queued again. Start it with `lensmith up`."
    )


@app.command("janitor")
def janitor_command(
    *, dry_run: Annotated[bool, typer.Option("--dry-run", help="only tell what would go")] = False
) -> None:
    """Remove stored objects that no row names; the service does it every day."""
    command = [sys.executable, "-m", "worker.janitor", *(["--dry-run"] if dry_run else [])]
    raise typer.Exit(subprocess.run(command, check=False).returncode)  # noqa: S603 - our own module


@app.command("version")
def version_command() -> None:
    """Print the version."""
    typer.echo(core.VERSION)


@contextmanager
def _explained(console: Console) -> Iterator[None]:
    """Say why a command cannot go on, in place of a traceback."""
    try:
        yield
    except CannotStart as error:
        console.print(f"[red]✗[/red] {escape(str(error))}")
        raise typer.Exit(1) from error


def _settings(**given: object) -> Settings:
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"])
        # What is said of several together names them itself.
        about = f"LENSMITH_{name.upper()} (or --{name.replace('_', '-')}): " if name else ""
        typer.echo(f"{about}{first['msg'].removeprefix('Value error, ')}", err=True)
        raise typer.Exit(2) from error


def main() -> None:
    """Run the command line."""
    app()
