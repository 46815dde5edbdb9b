"""`lensmith datasets check`: the server's validation of a file or a folder, here and without a server."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from core.errors import Invalid
from ingest.columns import parse_columns
from ingest.container import Container, sniff
from ingest.issues import Issue, Rule, Severity, shown
from ingest.skipped import OnBadRow

if TYPE_CHECKING:
    from ingest.report import Report  # pyarrow, which no other command needs

REFUSED = 3
_SHOWN_ROWS = 5
_STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "blue"}
_ORDER = list(_STYLES)


def check_command(
    path: Annotated[Path, typer.Argument(exists=True, help="a zip, tar, tar.gz, JSONL or Parquet file, or a folder")],
    columns: Annotated[str | None, typer.Option(help='your names, {"image": "img_path", "answer": "label"}')] = None,
    *,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="as `upload` does with it")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> None:
    """Check a data set as the server would, without one; exit status 3 when it is refused.

    In a folder, names that begin with a dot are passed over. Nothing is fetched from the network.
    """
    complaints = Console(stderr=True, highlight=False, soft_wrap=True)
    mapping = _mapping(columns)
    try:
        report = _check(path, mapping, complaints, skip_bad_rows=skip_bad_rows)
    except Invalid as refusal:
        complaints.print(Text.assemble(("✗", "red"), " ", refusal.detail))
        raise typer.Exit(REFUSED) from refusal
    except OSError as error:
        complaints.print(Text.assemble(("✗", "red"), " ", _system_sentence(error)))
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        for line in describe(report):
            Console(highlight=False, soft_wrap=True).print(line)
    raise typer.Exit(REFUSED if report.refusal is not None else 0)


def describe(report: "Report") -> Iterator[Text]:
    """Yield the lines of a report for a person: the outcome, then each rule with its count, first rows and remedy."""
    yield _outcome(report)
    rules = sorted(report.counts.by_rule, key=lambda rule: _ORDER.index(_of(report, rule)[0].severity))
    for rule in rules:
        yield from _described(rule, report.counts.by_rule[rule], _of(report, rule))


def _mapping(columns: str | None) -> dict[str, str] | None:
    try:
        return parse_columns(columns) if columns is not None else None
    except Invalid as error:
        raise typer.BadParameter(error.detail, param_hint="--columns") from error


def _check(path: Path, columns: dict[str, str] | None, complaints: Console, *, skip_bad_rows: bool) -> "Report":
    from ingest.options import Options
    from ingest.validate import validate  # Pillow and pyarrow as well

    container = _container(path)
    on_bad_row = OnBadRow.SKIP if skip_bad_rows else OnBadRow.FAIL
    options = Options(columns=columns or {}, on_bad_row=on_bad_row)
    with tempfile.TemporaryDirectory(prefix="lensmith-check-") as folder, complaints.status("checking") as status:

        def show(done: int, total: int | None) -> None:
            status.update(f"checking: {done:,} of {total or done:,} rows")

        return validate(path, container, Path(folder), options, on_progress=show)


def _container(path: Path) -> Container:
    if path.is_dir():
        return Container.FOLDER
    with path.open("rb") as stream:
        return sniff(stream, path.name)


def _of(report: "Report", rule: Rule) -> list[Issue]:
    return [issue for issue in report.issues if issue.rule is rule]


def _outcome(report: "Report") -> Text:
    rows = report.rows
    if report.refusal is not None:
        read = f"{rows.read:,} rows read, {rows.refused:,} refused, {_counted(report.num_errors, 'error')}."
        return Text.assemble(("✗", "red"), " The data set would be refused: ", read)
    splits = ", ".join(f"{count:,} {split}" for split, count in (report.splits or {}).items())
    images = _counted(report.statistics.num_images, "distinct image")
    left_out = f", {_counted(rows.refused, 'row')} left out" if rows.refused else ""
    good = f" The data set is good: {_counted(rows.kept, 'row')} ({splits}), {images}{left_out}."
    return Text.assemble(("✓", "green"), good)


def _described(rule: Rule, count: int, issues: list[Issue]) -> Iterator[Text]:
    first = issues[0]
    yield Text.assemble(
        (first.severity, _STYLES[first.severity]), " ", (rule, "bold"), f" ({count:,}){_places(issues, count)}"
    )
    at = f" [{first.pointer}]" if first.pointer != "#" else ""
    yield Text(f"  {_visible(first.message + at)}")
    yield Text(f"  → {_visible(first.fix)}")


def _places(issues: list[Issue], count: int) -> str:
    """Return where a rule was first broken: rows of one file together."""
    named = [issue for issue in issues if issue.row is not None][:_SHOWN_ROWS]
    if not named:
        return ""
    by_file: dict[str | None, list[str]] = {}
    for issue in named:
        by_file.setdefault(issue.file, []).append(str(issue.row))
    places = [
        f"row{'s' * (len(rows) > 1)} {', '.join(rows)}" + (f" of {shown(file)}" if file else "")
        for file, rows in by_file.items()
    ]
    return f" {'; '.join(places)}" + (", …" if count > len(named) else "")


def _visible(text: str) -> str:
    """Return a text without what a terminal would obey; a pointer holds a user's own key."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _system_sentence(error: OSError) -> str:
    return f"The check cannot go on: {error.strerror}. It writes to {tempfile.gettempdir()} (TMPDIR says where)."
