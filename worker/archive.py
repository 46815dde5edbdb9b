"""Logs of jobs that ended long ago move from rows into an object; readers see no difference."""

from collections.abc import Iterator
from datetime import timedelta

from core.clock import utc_now
from core.db import Database
from core.errors import FailureCode, WorkFailed
from core.logs import get_logger
from core.storage import Storage
from models import archive as archives
from models.archive import Archive
from models.event import Event
from models.history import History

AT_ONCE = 20  # in one sweep; the rest waits for the next
PAGE = 1000

log = get_logger(__name__)


def archive_logs(database: Database, storage: Storage, *, keep_days: float) -> None:
    """Archive the logs of jobs that ended more than `keep_days` ago.

    First the object, then one transaction that names it and removes the rows. Whoever dies in between leaves the rows; the
    next sweep writes the same object again.
    """
    with database.read() as session:
        due = archives.due(session, ended_before=utc_now() - timedelta(days=keep_days), limit=AT_ONCE)
    for archive, former_seq in due:
        try:
            _archive(database, storage, archive, former_seq)
        except WorkFailed as failed:  # the next sweep tries again
            log.warning("log not archived", work_id=archive.job_id, error=failed.detail)


def _archive(database: Database, storage: Storage, archive: Archive, former_seq: int) -> None:
    stored = storage.put_chunks(archive.key, archives.packed(_pages(History(database, storage), archive)))
    with database.write() as session:
        is_settled = archives.settle(session, archive)
    if not is_settled:  # the job was retried: it is archived as a whole when it has ended again
        return
    log.info("log archived", work_id=archive.job_id, items=archive.seq, size_bytes=stored.size_bytes)
    if former_seq:
        storage.delete(Archive(job_id=archive.job_id, project=archive.project, seq=former_seq).key)


def _pages(history: History, archive: Archive) -> Iterator[list[Event]]:
    """Yield every item up to the archive's last. One that is missing ends it: half an archive must get no name."""
    read_seq = 0
    for page in history.pages(archive.job_id, after=0, size=PAGE):
        items = [item for item in page.items if item.seq <= archive.seq]
        if [item.seq for item in items] != list(range(read_seq + 1, read_seq + 1 + len(items))):
            break
        read_seq += len(items)
        yield items
        if read_seq == archive.seq:
            return
    raise WorkFailed(
        FailureCode.STORAGE,
        f"Only the items up to {read_seq} of {archive.seq} of the log of {archive.job_id} were found.",
        remedy="Look at the row of the job and at the objects below its key.",
        retryable=True,
    )
