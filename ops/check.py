"""`lensmith datasets check`: the server's validation of a file or a folder, here and without a server."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from core.errors import Invalid, WorkFailed
from core.settings import Settings
from ingest.columns import check_columns
from ingest.container import Container, sniff
from ingest.issues import Issue, Rule, Severity, shown
from ingest.limits import RemoteLimits
from ingest.skipped import OnBadRow
from lensmith.reading import Columns, LongestEdge, MeasuredFor, SkipBadRows, Split, Upscale, json_object, measuring
from lensmith.terminal import DATA_REFUSED, AsJson, complain, err, out

if TYPE_CHECKING:
    from ingest.report import Report  # pyarrow, which no other command needs
    from ingest.statistics import Spread, TokenStatistics

_SHOWN_ROWS = 5
_STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "blue"}
_ORDER = list(_STYLES)


def check_command(  # noqa: PLR0913 - one for each option
    path: Annotated[Path, typer.Argument(exists=True, help="a zip, tar, tar.gz, JSONL or Parquet file, or a folder")],
    columns: Columns = None,
    base_model: MeasuredFor = None,
    longest_edge: LongestEdge = None,
    *,
    split: Split = None,
    upscale: Upscale = None,
    skip_bad_rows: SkipBadRows = False,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="fetch images with an https URL; else they are errors")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a data set as the server would, without one; exit status 3 when it is refused.

    In a folder, names that begin with a dot are passed over. Without --fetch nothing is fetched from the network but the
    settings of a base model that is not here yet, and a row with a URL is an error, as on a server that fetches no images.
    """
    measured = measuring(base_model, longest_edge, split=split, upscale=upscale)
    if measured["image"] and base_model is None:
        raise typer.BadParameter("image options are for a base model, and none is named", param_hint="--base-model")
    reading = {"columns": _mapping(columns), "on_bad_row": OnBadRow.SKIP if skip_bad_rows else OnBadRow.FAIL}
    remote = RemoteLimits() if fetch else None
    try:
        report = _check(path, reading, remote) if base_model is None else _measure(path, reading | measured, remote)
    except WorkFailed as failure:
        said = f"{failure.detail.rstrip('.')}. {failure.remedy}"
        complain(_visible(said[:1].upper() + said[1:]))
        raise typer.Exit(1) from failure
    except Invalid as refusal:
        complain(refusal.detail)
        raise typer.Exit(DATA_REFUSED) from refusal
    except OSError as error:
        complain(_system_sentence(error))
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        for line in describe(report):
            out.print(line)
    raise typer.Exit(DATA_REFUSED if report.refusal is not None else 0)


def describe(report: "Report") -> Iterator[Text]:
    """Yield the lines of a report for a person: the outcome, each rule with its count, first rows and remedy, the tokens."""
    yield _outcome(report)
    rules = sorted(report.counts.by_rule, key=lambda rule: _ORDER.index(_of(report, rule)[0].severity))
    for rule in rules:
        yield from _described(rule, report.counts.by_rule[rule], _of(report, rule))
    if report.statistics.tokens is not None:
        yield from _measured(report.statistics.tokens)


def _mapping(columns: str | None) -> dict[str, str]:
    if columns is None:
        return {}
    try:
        return check_columns(json_object(columns, "--columns"))
    except Invalid as error:
        raise typer.BadParameter(error.detail, param_hint="--columns") from error


def _check(path: Path, reading: dict[str, Any], remote: RemoteLimits | None) -> "Report":
    from ingest.options import Options
    from ingest.remote import RemoteImages
    from ingest.validate import validate  # Pillow and pyarrow as well

    container = _container(path)
    options = Options(**reading, remote=RemoteImages(remote) if remote is not None else None)
    with tempfile.TemporaryDirectory(prefix="lensmith-check-") as folder, err.status("checking") as status:

        def show(done: int, total: int | None) -> None:
            status.update(_progress(done, total))

        return validate(path, container, Path(folder), options, on_progress=show)


def _measure(path: Path, reading: dict[str, Any], remote: RemoteLimits | None) -> "Report":
    """Check in a process of its own, because that one loads the base's tokenizer and with it torch."""
    from core.events import ChildEvent, Progress
    from ops.apart import validate_apart

    models_dir = Settings().layout.models
    spec = reading | {"source": str(path.absolute()), "container": _container(path), "models_dir": str(models_dir)}
    spec["remote"] = remote.model_dump() if remote is not None else None
    loading = f"loading {reading['base_model']}"
    with tempfile.TemporaryDirectory(prefix="lensmith-check-") as folder, err.status(Text(loading)) as status:

        def show(event: ChildEvent) -> None:
            if isinstance(event, Progress):
                status.update(_progress(event.step, event.total_steps))

        return validate_apart(spec, Path(folder), on_event=show)


def _progress(done: int, total: int | None) -> str:
    return f"checking: {done:,} of {total or done:,} rows"


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


def _measured(tokens: "TokenStatistics") -> Iterator[Text]:
    """Yield how long the good rows are for a base model."""
    cut = f"images {'cut into tiles' if tokens.split else 'whole'} at {tokens.longest_edge:,} px"
    if tokens.split and not tokens.upscale:
        cut += ", small ones not scaled up"
    yield Text.assemble(("tokens", "bold"), _visible(f" of the good rows for {tokens.base_model}, {cut}"))
    if tokens.tokens is None or tokens.image_tokens is None:
        yield Text("  there is none")
        return
    yield Text(f"  per row    {_spread(tokens.tokens)}, of {tokens.context_tokens:,} that fit")
    yield Text(f"  of images  {_spread(tokens.image_tokens)}")
    yield Text(f"  learned    {tokens.learned_ratio or 0:.1%} of all tokens")


def _spread(spread: "Spread") -> str:
    return f"median {spread.p50:,}, 95 % up to {spread.p95:,}, longest {spread.max:,}"


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
