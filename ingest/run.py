"""Validation as a child process: `python -m ingest.run --spec spec.json --staging DIR --events-fd N`."""

import ctypes
import os
import resource
import time
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from core.child import Child, run_child
from core.errors import FailureCode, WorkFailed
from core.events import Phase, PhaseChanged, Progress
from core.process import bound_address_space, calm_threads
from ingest.container import Container
from ingest.gallery import Remote
from ingest.issues import Issue, Rule, Severity, severity_of
from ingest.limits import GIB, MIB, Limits, RemoteLimits
from ingest.options import Options
from ingest.report import Report
from ingest.ruler import Ruler
from ingest.skipped import OnBadRow
from ingest.validate import validate
from vlm.image_options import ImageOptions

# What a hostile file can make this process take; the bounds on lines and images stay far below. A base model is loaded
# before the first byte of the file is read, and the file gets as much on top of it: torch alone maps 3.7 GiB (its CUDA
# build on a machine without a card; 0.8 GiB of it are in memory), and how much more a driver maps, nobody can say.
ADDRESS_SPACE_BYTES = 4 * GIB
_PROGRESS_PERIOD_S = 0.5
_M_MMAP_THRESHOLD = -3  # of `malloc.h`


class Spec(BaseModel):
    """What to validate. Without `remote` nothing is fetched from the network.

    With a `base_model` every row is measured for it, its images cut as `image` says; `models_dir` is where the bases are
    that Lensmith builds itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Path
    container: Container
    seed: int = 0
    columns: dict[str, str] = {}
    on_bad_row: OnBadRow = OnBadRow.FAIL
    limits: Limits = Limits()
    remote: RemoteLimits | None = None
    base_model: str | None = None
    image: ImageOptions = ImageOptions()
    models_dir: Path | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.base_model is not None and self.models_dir is None:
            raise ValueError("a base_model needs a models_dir.")
        return self


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
    spec = Spec.model_validate(child.spec)
    ruler = _ruler(spec, child)
    child.check_stop()
    _bound_memory(beside_bytes=_mapped_bytes() if ruler is not None else 0)
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
            ruler=ruler,
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


def _ruler(spec: Spec, child: Child) -> Ruler | None:
    """Return what measures the rows; raises `WorkFailed` (`base_model`) when the base cannot be had."""
    if spec.base_model is None:
        return None
    assert spec.models_dir is not None
    child.events.emit(PhaseChanged(phase=Phase.LOADING))
    calm_threads()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nothing is computed here: a job's card is left alone
    try:
        from vlm.base_ruler import load_ruler  # transformers and with it torch, for sets that name a base
    except ModuleNotFoundError as error:
        raise WorkFailed(
            FailureCode.BASE_MODEL,
            f"rows are measured for a base model with {error.name}, which is not installed here",
            remedy='Install "lensmith[train]" where data sets are validated, or name no base_model.',
        ) from error
    return load_ruler(spec.base_model, models_dir=spec.models_dir, image=spec.image)


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
    may_pass = broken == {Rule.URL_UNREACHABLE}  # nothing is known to be wrong with the data
    return WorkFailed(FailureCode.BAD_DATA, detail, remedy=remedy, retryable=may_pass)


def _mapped_bytes() -> int:
    """Return how much address space this process has taken (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _bound_memory(*, beside_bytes: int) -> None:
    """Bound the address space, and have glibc give large blocks back.

    Else every decoding thread keeps what it has freed: with eight of them, 16 images of 25 million pixels took 3.1 GB
    instead of 0.8.
    """
    bound_address_space(ADDRESS_SPACE_BYTES + beside_bytes)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(_M_MMAP_THRESHOLD, MIB)


if __name__ == "__main__":
    raise SystemExit(run_child(work))
