"""The whole of validation, as one pure function of a file: used by the child process and by the command line."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ingest.checks import RESERVED, check_draft
from ingest.columns import Columns
from ingest.container import Container
from ingest.drafts import Draft
from ingest.examples import ExampleSpool, Written
from ingest.forms import read_form
from ingest.gallery import Gallery, Look
from ingest.images import quiet
from ingest.issues import Finding, Issue, IssueLog, Rule, SourceFault, shown
from ingest.limits import MIB, Limits
from ingest.lookahead import look_ahead
from ingest.options import Options
from ingest.overview import label_imbalance, look_alike, near_duplicate
from ingest.pack import PACK_FILE, write_index
from ingest.pictures import Lookalike, Pictures
from ingest.report import Report, Rows, counts_of
from ingest.ruler import Gauge
from ingest.size_tally import SIZES_FILE, SizeTally
from ingest.skipped import OnBadRow, SkipLog
from ingest.sources import Source, SourceRow, open_source
from ingest.statistics import Tally
from ingest.threads import Threads

OnProgress = Callable[[int, int | None], None]


def validate(
    path: Path,
    container: Container,
    out: Path,
    options: Options | None = None,
    *,
    on_progress: OnProgress = lambda _done, _total: None,
) -> Report:
    """Validate an uploaded file and return the report, which is also written to `out/report.json`.

    Unless the data set is refused, `out` then holds `records.parquet` and the images (`ingest.pack`), the canonical form, and
    `sizes.json` (`vlm.size_histogram`); else it holds no table. Faults of the data are in the report and raise nothing.

    Args:
        path: the uploaded file, or a folder.
        container: what `sniff` said it is, or `folder`.
        out: an existing, empty folder.
        options: other than the defaults.
        on_progress: called with the rows done and about how many there are; what it raises ends the validation.
    """
    options = options or Options()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=out) as spool,
        tempfile.TemporaryFile(dir=out) as thumbnails,
        (out / PACK_FILE).open("wb", buffering=MIB) as pack,
        quiet(),
        Threads(num_cores=options.num_cores, is_fetching=options.remote is not None) as threads,
    ):
        pictures = Pictures(thumbnails)
        gallery = Gallery(pack, options.limits, pictures, threads, remote=options.remote)
        validation = _Validation(out, spool, gallery, pictures, options)
        try:
            names = validation.columns.names
            with open_source(path, container, options.limits, names=names, scratch=out) as source:
                validation.read(source, on_progress, max_running=threads.max_running)
        except SourceFault as fault:
            validation.refuse(fault.finding, row=fault.row, file=fault.file)
        report = validation.finish(container, on_progress)
    report.write(out)
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class _BegunRow:
    """A row whose shape is read and whose images are being looked at."""

    row: SourceRow
    draft: Draft | None
    findings: list[Finding]
    looks: list[Look]

    @property
    def num_running(self) -> int:
        return sum(look.is_running for look in self.looks)

    @property
    def held_bytes(self) -> int:
        return sum(look.held_bytes for look in self.looks)


class _Validation:
    """One run over one file: what was counted so far."""

    def __init__(self, out: Path, spool: IO[str], gallery: Gallery, pictures: Pictures, options: Options) -> None:
        self.limits = options.limits
        self._options = options
        self._log = IssueLog(self.limits.max_kept_per_rule)
        self._skipped = SkipLog()
        self._refusal: Issue | None = None
        self._out = out
        self.columns = Columns(options.columns)
        self._spool_file = spool
        self._spool = ExampleSpool(spool, seed=options.seed)
        self._pictures = pictures
        self._gallery = gallery
        self._tally = Tally()
        self._sizes = SizeTally()
        self._gauge = Gauge(options.ruler) if options.ruler is not None else None
        self._num_read = 0
        self._num_refused = 0
        self._ignored: set[str] = set()

    def read(self, source: Source, on_progress: OnProgress, *, max_running: int) -> None:
        """Read every row of a source."""
        total = source.count_rows()
        on_progress(0, total)
        for begun in look_ahead((self._begin(row, source) for row in source.rows()), max_running=max_running):
            row = begun.row
            self._num_read += not row.is_remark
            if self._num_read > self.limits.max_rows:
                raise SourceFault(_too_many_rows(self.limits), file=row.file, row=row.row)
            self._take(begun)
            on_progress(self._num_read, total)
        self._report_unused(source)

    def refuse(self, finding: Finding, *, row: int | None = None, file: str | None = None) -> None:
        """Report what refuses the data set as a whole."""
        self._log.add(finding, row=row, file=file)
        self._refusal = self._refusal or Issue.of(finding, row=row, file=file)

    def finish(self, container: Container, on_progress: OnProgress) -> Report:
        """Look at the whole, write the table unless the data set is refused, and return the report."""
        statistics = self._tally.statistics(
            long_sides_px=self._pictures.long_sides_px,
            short_sides_px=self._pictures.short_sides_px,
            images_bytes=self._pictures.stored_bytes,
            tokens=self._gauge.statistics() if self._gauge else None,
        )
        self._check_count()
        for finding in label_imbalance(statistics.labels):
            self._log.add(finding)
        alike = self._compare(on_progress)
        written = self._write(alike) if self._refusal is None else None
        return Report(
            container=container,
            seed=self._options.seed,
            on_bad_row=self._options.on_bad_row,
            rows=Rows(read=self._num_read, kept=len(self._spool), refused=self._num_refused),
            refusal=self._refusal,
            skipped=self._skipped.listed(),
            issues=self._log.kept,
            counts=counts_of(self._log),
            statistics=statistics,
            num_fetched=self._gallery.num_fetched,
            splits=written.splits if written else None,
            digest=written.digest if written else None,
        )

    def _compare(self, on_progress: OnProgress) -> list[Lookalike]:
        """Report what is nearly the same, each image and each example once, and return the images that look alike."""

        def say_the_same(one: int, other: int) -> bool:
            on_progress(self._num_read, self._num_read)  # whoever wants this to stop says so here
            return self._spool.say_the_same(one, other)

        places, alike = self._spool.places, self._pictures.lookalikes(say_the_same)
        gravest = {found.sha256: found for found in sorted(alike, key=lambda found: (found.is_leak, -found.earlier))}
        for found in sorted(gravest.values(), key=lambda found: found.example):
            self._report_at(found.example, look_alike(found, places.shown(found.earlier)))
        for example, earlier in self._spool.near_duplicates():
            self._report_at(example, near_duplicate(places.shown(earlier)))
        return alike

    def _report_at(self, example: int, finding: Finding) -> None:
        row, file = self._spool.places.of(example)
        self._log.add(finding, row=row, file=file)

    def _write(self, alike: list[Lookalike]) -> Written | None:
        findings: list[Finding] = []
        splits = self._spool.choose(findings, [(found.sha256, found.earlier_sha256) for found in alike])
        for finding in findings:
            self._say(finding, is_fatal=finding.is_error)
        parted = {found.sha256: found for found in alike if splits[found.example] != splits[found.earlier]}
        for found in (found for found in parted.values() if not found.is_leak):  # those that are one were said before
            self._report_at(
                found.example, look_alike(replace(found, is_leak=True), self._spool.places.shown(found.earlier))
            )
        if self._refusal is not None:
            return None
        write_index(self._out, self._pictures.entries())
        (self._out / SIZES_FILE).write_text(self._sizes.histogram(self._pictures.used_sides_px).model_dump_json())
        self._spool_file.seek(0)
        return self._spool.write(self._out, self._spool_file, splits)

    def _begin(self, row: SourceRow, source: Source) -> _BegunRow:
        findings = list(row.findings)
        draft = read_form(row.value, findings, self.columns) if row.value is not None else None
        looks: list[Look] = []
        if draft is not None:
            reserved = self._gauge.reserved if self._gauge else RESERVED
            findings.extend(check_draft(draft, tuple(findings), self.limits, reserved=reserved))
            references = draft.references[: self.limits.max_images]
            looks = [self._gallery.look(image, source=source, beside=row.file) for image in references]
        return _BegunRow(row=row, draft=draft, findings=findings, looks=looks)

    def _take(self, begun: _BegunRow) -> None:
        row, draft, findings = begun.row, begun.draft, begun.findings
        found = [self._gallery.settle(look, findings) for look in begun.looks]
        images = [sha256 for sha256 in found if sha256 is not None]
        if draft is not None and self._gauge is not None and not any(finding.is_error for finding in findings):
            findings.extend(self._gauge.check(draft, [self._pictures.sides_px(sha256) for sha256 in images]))
        if draft is None or any(finding.is_error for finding in findings):
            self._leave_out(row, findings)
        else:
            number, split = len(self._spool), draft.split or "train"
            for look, sha256 in zip(begun.looks, images, strict=True):
                self._pictures.use(sha256, example=number, pointer=look.pointer, split=split)
            findings.extend(self._spool.add(draft, tuple(images), row=row.row, file=row.file))
            self._tally.add(draft, len(images))
            self._sizes.add(draft, [self._pictures.sides_px(sha256) for sha256 in images])
        is_fatal = self._options.on_bad_row is OnBadRow.FAIL
        for finding in self._news(findings):
            self._say(finding, row=row.row, file=row.file, is_fatal=is_fatal and finding.is_error)

    def _leave_out(self, row: SourceRow, findings: list[Finding]) -> None:
        if row.is_remark:
            return
        self._num_refused += 1
        if self._options.on_bad_row is OnBadRow.SKIP:
            broken = (finding.rule for finding in findings if finding.is_error)
            self._skipped.add(broken, row=row.row, file=row.file)

    def _say(
        self, finding: Finding, *, is_fatal: bool = False, row: int | None = None, file: str | None = None
    ) -> None:
        if is_fatal:
            self.refuse(finding, row=row, file=file)
        else:
            self._log.add(finding, row=row, file=file)

    def _news(self, findings: list[Finding]) -> Iterator[Finding]:
        """Yield what is to be reported: a field that is not used is said once, not at each of a million rows."""
        for finding in findings:
            if finding.rule is not Rule.IGNORED_FIELD:
                yield finding
            elif finding.message not in self._ignored and len(self._ignored) <= self.limits.max_kept_per_rule:
                self._ignored.add(finding.message)
                is_last = len(self._ignored) > self.limits.max_kept_per_rule
                yield replace(finding, message=f"{finding.message} And there are more.") if is_last else finding

    def _report_unused(self, source: Source) -> None:
        for finding in self.columns.unseen() if self._num_read else ():
            self._log.add(finding)
        if unused := self._gallery.unused(source):
            number = "1 file of the upload is" if len(unused) == 1 else f"{len(unused):,} files of the upload are"
            message = f"{number} named by no row, such as {shown(unused[0])}."
            self._log.add(Finding(rule=Rule.UNUSED_FILES, message=message, fix="Nothing; they are not stored."))

    def _check_count(self) -> None:
        num_left = self._num_read - len(self._skipped)
        if self._num_read == 0 and self._refusal is None:
            message, fix = "there are no rows.", "Write one JSON object per line, one line per example."
            self.refuse(Finding(rule=Rule.NO_ROWS, message=message, fix=fix))
        elif num_left == 0 and self._refusal is None:
            message = f"all {self._num_read} rows were skipped, so there is nothing to train on."
            self.refuse(Finding(rule=Rule.NO_TRAINING, message=message, fix="Mend the rows as their issues say."))
        elif 0 < num_left < self.limits.min_rows:
            message = f"there {'is only 1 row' if num_left == 1 else f'are only {num_left} rows'}."
            fix = f"Enough for a trial; {self.limits.min_rows} or more give something to measure."
            self._log.add(Finding(rule=Rule.FEW_ROWS, message=message, fix=fix))


def _too_many_rows(limits: Limits) -> Finding:
    message = f"there are more than {limits.max_rows:,} rows."
    return Finding(rule=Rule.TOO_MUCH_DATA, message=message, fix="Split them into several data sets.")
