"""How commands speak to a person: two consoles, tables, questions, and one sentence for what went wrong."""

import sys
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lensmith.errors import ApiError, NotUploadable, Unreachable

DATA_REFUSED = 3
REFUSED = 422

P = ParamSpec("P")
T = TypeVar("T")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
BaseModelName = Annotated[str, typer.Option(help="an id of the catalogue, a Hub id or a local folder")]


def speaks_http(command: Callable[P, T], *, refuses_data: bool = False) -> Callable[P, T]:
    """Turn the SDK's errors into one sentence and an exit status; `refuses_data`: a 422 is about the data itself."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except Unreachable as error:
            complain(f"{error}. Is it running? `lensmith up` starts it; LENSMITH_URL says where it is.")
            raise typer.Exit(4) from error
        except NotUploadable as error:
            complain(str(error))
            raise typer.Exit(DATA_REFUSED) from error
        except ApiError as error:
            complain(f"{error.title}: {error.detail}")
            raise typer.Exit(DATA_REFUSED if refuses_data and error.status == REFUSED else 1) from error

    return wrapped


def ask(question: str) -> None:
    """Go on after a yes; without a terminal nobody could give one, which is a usage error."""
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is no terminal to ask on; say --yes", param_hint="--yes")
    err.print(Text(f"{question} [y/N] "), end="")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        err.print("nothing was deleted")
        raise typer.Exit(1)


def complain(sentence: str) -> None:
    """Say what is wrong; the words may be a user's or a model's, so nothing in them is markup."""
    err.print(Text.assemble(("✗", "red"), " ", sentence))


def show(resource: BaseModel) -> None:
    """Print a resource as JSON."""
    out.print_json(resource.model_dump_json())


def table(items: Iterator[Any], columns: tuple[str, ...], *, as_json: bool) -> None:
    """Print resources as a table; into a pipe, and when asked, one line of JSON for each."""
    if as_json or not out.is_terminal:
        for item in items:
            typer.echo(item.model_dump_json())
        return
    rows = Table(*columns, box=None, header_style="bold")
    for item in items:
        rows.add_row(*(Text("-" if (value := getattr(item, name)) is None else str(value)) for name in columns))
    out.print(rows)
