"""A data set of the Hub, fetched by a child: the libraries that read it are too heavy, and too trusting, for a worker."""

from pathlib import Path

from sqlmodel import Session

from core.errors import FailureCode, WorkFailed
from core.events import ChildEvent, Resolved
from ingest.origins import HubOrigin
from models import dataset as datasets
from worker.attempt import Attempt, Interrupted, LeaseLost
from worker.recorder import Recorder
from worker.supervisor import Ended, Failed, Fenced, Killed, Stalled, Succeeded

_MODULE = "ingest.hub"
_ROWS_FILE = "rows.parquet"  # as `ingest.hub` calls it; that module is the child's


class _Pin(Recorder):
    """Records the commit that is read before a row of it is: an attempt that is taken up again reads the same."""

    def record(self, session: Session, work_id: str, event: ChildEvent) -> None:
        """Write it as part of the source."""
        if isinstance(event, Resolved):
            datasets.record(session, work_id, source=event.provenance["source"])


def fetch_hub(origin: HubOrigin, attempt: Attempt, staging: Path, *, max_bytes: int, seconds: float) -> Path:
    """Bring a data set of the Hub into a folder, as one Parquet file, and return its path.

    Raises:
        Interrupted: the worker was told to stop, or a cancel was asked.
        LeaseLost: another worker may have the work by now.
        Overdue: it did not come in time.
        WorkFailed: it cannot be had; the sentence is the child's.
    """
    staging.mkdir()
    spec = {"origin": origin.model_dump(), "max_bytes": max_bytes}
    match attempt.run(_MODULE, spec=spec, staging=staging, recorder=_Pin(), with_hub_token=True, seconds=seconds):
        case Succeeded():
            return staging / _ROWS_FILE
        case Failed(failure=failure):
            raise WorkFailed(failure.code, failure.detail, remedy=failure.remedy, retryable=failure.retryable)
        case Killed() | Stalled():
            raise WorkFailed(
                FailureCode.SOURCE,
                "The process that reads the Hub was killed (SIGKILL), most often for want of memory, or hung.",
                remedy="Give the worker more memory, or upload the data set.",
                retryable=True,
            )
        case Ended():
            raise Interrupted
        case Fenced():
            raise LeaseLost
