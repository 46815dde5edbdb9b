"""The report of a validation: what was read, what is wrong, and what the data looks like; `report.json`."""

from pathlib import Path

from pydantic import BaseModel, Field, computed_field

from ingest.container import Container
from ingest.issues import Issue, IssueLog, Rule, Severity
from ingest.skipped import OnBadRow, SkippedRows
from ingest.statistics import Statistics
from vlm.conversation import Split

REPORT_FILE = "report.json"
REPORT_VERSION = 1


class Rows(BaseModel):
    """How many rows were read, and how many of them can and cannot be used."""

    read: int
    kept: int
    refused: int


class Counts(BaseModel):
    """True counts of issues, also of those that are not listed."""

    by_rule: dict[Rule, int]
    by_severity: dict[Severity, int]


class Report(BaseModel):
    """Everything that validation found. `digest` and `splits` are `null` when the data set is refused.

    `refusal` is the first issue that refuses the data set. An error of a row does so unless bad rows are skipped; then
    `skipped` lists every row that was left out, also those whose issues are beyond the limit of `issues`.
    """

    version: int = REPORT_VERSION
    container: Container
    seed: int
    on_bad_row: OnBadRow
    rows: Rows
    refusal: Issue | None
    skipped: list[SkippedRows]
    issues: list[Issue]
    counts: Counts
    statistics: Statistics
    num_fetched: int = Field(0, description="images that were fetched from a URL; their bytes are kept")
    splits: dict[Split, int] | None = None
    digest: str | None = None

    @computed_field  # type: ignore[prop-decorator]  # mypy 1.x does not know decorated properties
    @property
    def num_issues(self) -> int:
        """Return the true number of issues of all severities."""
        return sum(self.counts.by_rule.values())

    @computed_field  # type: ignore[prop-decorator]
    @property
    def num_errors(self) -> int:
        """Return the true number of errors."""
        return self.counts.by_severity[Severity.ERROR]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def num_skipped(self) -> int:
        """Return the number of rows that were left out."""
        return sum(len(skipped.rows) for skipped in self.skipped)

    def write(self, folder: Path) -> None:
        """Write `report.json`."""
        (folder / REPORT_FILE).write_text(self.model_dump_json(), encoding="utf-8")


def counts_of(log: IssueLog) -> Counts:
    """Return the true counts of an issue log, most frequent rule first."""
    return Counts(by_rule=dict(log.by_rule.most_common()), by_severity=log.by_severity)
