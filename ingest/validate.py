"""The whole of validation, as one pure function of a file: used by the child process and by the command line."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from ingest.checks import check_draft
from ingest.columns import Columns
from ingest.container import Container
from ingest.drafts import Draft
from ingest.examples import ExampleSpool, Written
from ingest.forms import read_form
from ingest.gallery import Gallery, Remote
from ingest.issues import Finding, IssueLog, Rule, Severity, SourceFault, shown
from ingest.limits import Limits
from ingest.report import Report, Rows, counts_of
from ingest.sources import Source, SourceRow, open_source
from ingest.statistics import Tally
from vlm.conversation import IMAGES_FOLDER

OnProgress = Callable[[int, int | None], None]


def validate(
    path: Path,
    container: Container,
    out: Path,
    *,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    remote: Remote | None = None,
    on_progress: OnProgress = lambda _done, _total: None,
) -> Report:
    """Validate an uploaded file and return the report, which is also written to `out/report.json`.

    Without errors `out` then holds `records.parquet` and `images/<sha256>`, the canonical form. With errors it holds no
    table. Faults of the data are in the report and raise nothing.

    Args:
        path: the uploaded file, or a folder.
        container: what `sniff` said it is, or `folder`.
        out: an existing, empty folder.
        seed: of the split, when the rows name none.
        columns: what the upload calls the fields, as `ingest.columns.parse_columns` returns it.
        limits: bounds other than the default.
        remote: where images with a URL come from; without it nothing is fetched.
        on_progress: called with the rows done and about how many there are; what it raises ends the validation.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=out) as spool:
        validation = _Validation(
            out, spool, seed=seed, columns=Columns(columns), limits=limits or Limits(), remote=remote
        )
        try:
            with open_source(path, container, validation.limits, scratch=out) as source:
                validation.read(source, on_progress)
        except SourceFault as fault:
            validation.log.add(fault.finding, row=fault.row, file=fault.file)
        report = validation.finish(container)
    report.write(out)
    return report


class _Validation:
    """One run over one file: what was counted so far."""

    def __init__(
        self, out: Path, spool: IO[str], *, seed: int, columns: Columns, limits: Limits, remote: Remote | None
    ) -> None:
        self.limits = limits
        self.log = IssueLog(limits.max_kept_per_rule)
        self._out = out
        self._seed = seed
        self._columns = columns
        self._spool_file = spool
        self._spool = ExampleSpool(spool, seed=seed)
        self._gallery = Gallery(out / IMAGES_FOLDER, limits, remote=remote)
        self._tally = Tally()
        self._num_read = 0
        self._num_refused = 0
        self._ignored: set[str] = set()

    def read(self, source: Source, on_progress: OnProgress) -> None:
        """Read every row of a source."""
        total = source.count_rows()
        on_progress(0, total)
        for row in source.rows():
            self._num_read += not row.is_remark
            if self._num_read > self.limits.max_rows:
                raise SourceFault(_too_many_rows(self.limits), file=row.file, row=row.row)
            self._take(row, source)
            on_progress(self._num_read, total)
        self._report_unused(source)

    def finish(self, container: Container) -> Report:
        """Look at the whole, write the table if nothing is wrong, and return the report."""
        self._check_count()
        written = self._write() if not self._has_errors() else None
        return Report(
            container=container,
            seed=self._seed,
            rows=Rows(read=self._num_read, kept=len(self._spool), refused=self._num_refused),
            issues=self.log.kept,
            counts=counts_of(self.log),
            statistics=self._tally.statistics(
                long_sides_px=self._gallery.long_sides_px,
                short_sides_px=self._gallery.short_sides_px,
                images_bytes=self._gallery.stored_bytes,
            ),
            num_fetched=self._gallery.num_fetched,
            splits=written.splits if written else None,
            digest=written.digest if written else None,
        )

    def _write(self) -> Written | None:
        findings: list[Finding] = []
        splits = self._spool.choose(findings)
        for finding in findings:
            self.log.add(finding)
        if self._has_errors():
            return None
        self._spool_file.seek(0)
        return self._spool.write(self._out, self._spool_file, splits)

    def _has_errors(self) -> bool:
        return self.log.by_severity[Severity.ERROR] > 0

    def _take(self, row: SourceRow, source: Source) -> None:
        findings = list(row.findings)
        draft = read_form(row.value, findings, self._columns) if row.value is not None else None
        images: list[str] = []
        if draft is not None:
            findings.extend(check_draft(draft, findings, self.limits))
            images = self._images(draft, findings, source, beside=row.file)
        if draft is None or any(finding.is_error for finding in findings):
            self._num_refused += not row.is_remark
        else:
            findings.extend(self._spool.add(draft, tuple(images), row=row.row, file=row.file))
            self._tally.add(draft, len(images))
        for finding in filter(self._is_news, findings):
            self.log.add(finding, row=row.row, file=row.file)

    def _images(self, draft: Draft, findings: list[Finding], source: Source, *, beside: str | None) -> list[str]:
        references = draft.references[: self.limits.max_images]
        found = [self._gallery.resolve(image, findings, source=source, beside=beside) for image in references]
        return [sha256 for sha256 in found if sha256 is not None]

    def _is_news(self, finding: Finding) -> bool:
        """Return whether to report a finding: a field that is not used is said once, not at each of a million rows."""
        if finding.rule is not Rule.IGNORED_FIELD:
            return True
        is_new = finding.message not in self._ignored
        if len(self._ignored) < self.limits.max_kept_per_rule:
            self._ignored.add(finding.message)
        return is_new

    def _report_unused(self, source: Source) -> None:
        for finding in self._columns.unseen() if self._num_read else ():
            self.log.add(finding)
        if unused := self._gallery.unused(source):
            message = f"{len(unused)} files of the upload are named by no row, such as {shown(unused[0])}."
            self.log.add(Finding(rule=Rule.UNUSED_FILES, message=message, fix="Nothing; they are not stored."))

    def _check_count(self) -> None:
        if self._num_read == 0 and not self._has_errors():
            message, fix = "there are no rows.", "Write one JSON object per line, one line per example."
            self.log.add(Finding(rule=Rule.NO_ROWS, message=message, fix=fix))
        elif 0 < self._num_read < self.limits.min_rows:
            message = f"there are only {self._num_read} rows."
            fix = f"Enough for a trial; {self.limits.min_rows} or more give something to measure."
            self.log.add(Finding(rule=Rule.FEW_ROWS, message=message, fix=fix))


def _too_many_rows(limits: Limits) -> Finding:
    message = f"there are more than {limits.max_rows:,} rows."
    return Finding(rule=Rule.TOO_MUCH_DATA, message=message, fix="Split them into several data sets.")
