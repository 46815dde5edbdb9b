"""Validation as a child process: `python -m ingest.run --spec spec.json --staging DIR --events-fd N`."""

import ctypes
import resource
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from core.child import Child, run_child
from core.errors import FailureCode, WorkFailed
from core.events import Phase, PhaseChanged, Progress
from ingest.container import Container
from ingest.gallery import Remote
from ingest.issues import Issue, Rule, Severity, severity_of
from ingest.limits import GIB, MIB, Limits, RemoteLimits
from ingest.options import Options
from ingest.report import Report
from ingest.skipped import OnBadRow
from ingest.validate import validate

# What a hostile file can make this process take; the bounds on lines and images stay far below.
ADDRESS_SPACE_BYTES = 4 * GIB
_PROGRESS_PERIOD_S = 0.5
_M_MMAP_THRESHOLD = -3  # of `malloc.h`


class Spec(BaseModel):
    """What to validate. Without `remote` nothing is fetched from the network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Path
    container: Container
    seed: int = 0
    columns: dict[str, str] = {}
    on_bad_row: OnBadRow = OnBadRow.FAIL
    limits: Limits = Limits()
    remote: RemoteLimits | None = None


class Outcome(BaseModel):
    """The data of the `result` event."""

    num_examples: int
    num_issues: int
    num_errors: int
    num_skipped: int
    digest: str
    splits: dict[str, int]
    num_images: int
    images_bytes: int


def work(child: Child) -> dict[str, Any]:
    """Validate the file that the spec names; faulty data is a `bad_data` failure, with `report.json` written."""
    _bound_memory()
    spec = Spec.model_validate(child.spec)
    child.events.emit(PhaseChanged(phase=Phase.PREPARING))
    report = validate(
        spec.source,
        spec.container,
        child.staging,
        Options(
            seed=spec.seed,
            columns=spec.columns,
            on_bad_row=spec.on_bad_row,
            limits=spec.limits,
            remote=_remote(spec),
        ),
        on_progress=_Reporter(child).rows_done,
    )
    if report.refusal is not None:
        raise _refused(report, report.refusal)
    outcome = _outcome(report)
    left_out = f", {outcome.num_skipped} rows left out" if outcome.num_skipped else ""
    child.events.log(
        f"The data set is good: {outcome.num_examples} examples, {outcome.num_images} images, "
        f"{outcome.num_issues} remarks{left_out}.",
        splits=outcome.splits,
    )
    return outcome.model_dump()


def _remote(spec: Spec) -> Remote | None:
    if spec.remote is None:
        return None
    from ingest.remote import RemoteImages  # HTTP and TLS, which most sets do without

    return RemoteImages(spec.remote)


class _Reporter:
    """Tells the supervisor how many rows are done, twice a second, and notices when it says stop."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._next = 0.0
        self._told: int | None = None

    def rows_done(self, done: int, total: int | None) -> None:
        self._child.check_stop()
        now = time.monotonic()
        if now >= self._next or (done == total and done != self._told):
            self._next, self._told = now + _PROGRESS_PERIOD_S, done
            self._child.events.emit(Progress(step=done, total_steps=total))


def _outcome(report: Report) -> Outcome:
    assert report.digest is not None
    assert report.splits is not None
    return Outcome(
        num_examples=report.rows.kept,
        num_issues=report.num_issues,
        num_errors=report.num_errors,
        num_skipped=report.num_skipped,
        digest=report.digest,
        splits={str(split): count for split, count in report.splits.items()},
        num_images=report.statistics.num_images,
        images_bytes=report.statistics.images_bytes,
    )


def _refused(report: Report, first: Issue) -> WorkFailed:
    others = report.num_errors - 1
    more = f" And {others} more error{'s' if others > 1 else ''}." if others else ""
    detail = f"{first.sentence[:1].upper()}{first.sentence[1:]}{more}"
    remedy = f"{first.fix} The data set's report lists every issue with its row."
    broken = {rule for rule in report.counts.by_rule if severity_of(rule) is Severity.ERROR}
    may_pass = broken == {Rule.URL_UNREACHABLE}  # the data itself is good
    return WorkFailed(FailureCode.BAD_DATA, detail, remedy=remedy, retryable=may_pass)


def _bound_memory() -> None:
    """Bound the address space, and have glibc give large blocks back.

    Else every decoding thread keeps what it has freed: with eight of them, 16 images of 25 million pixels took 3.1 GB
    instead of 0.8.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = ADDRESS_SPACE_BYTES if hard == resource.RLIM_INFINITY else min(ADDRESS_SPACE_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(_M_MMAP_THRESHOLD, MIB)


if __name__ == "__main__":
    raise SystemExit(run_child(work))
