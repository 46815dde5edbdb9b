"""Reading a job's log, wherever it lies: archived items come from their object, the others from their rows."""

from collections.abc import Generator
from dataclasses import dataclass
from itertools import islice

from core.db import Database
from core.errors import WorkFailed
from core.storage import Storage
from models import event
from models.archive import Archive
from models.event import Event, Look
from models.states import EventKind, WorkState


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some items of a log, and how its job stood when they were read.

    Every wanted item up to `read_seq` was read; `last_seq` is the newest number of the whole log.
    """

    state: WorkState
    last_seq: int
    read_seq: int
    items: list[Event]


class History:
    """The logs of all jobs. Nothing here keeps a session open while the store is read."""

    def __init__(self, database: Database, storage: Storage) -> None:
        self._database = database
        self._storage = storage

    def page(
        self, job_id: str, *, after: int, limit: int, kinds: frozenset[EventKind] | None = None
    ) -> list[Event] | None:
        """Return the first `limit` items with a number above `after`; None: there is no such job."""
        items: list[Event] | None = None
        for read in self.pages(job_id, after=after, size=limit, kinds=kinds):
            items = [*(items or []), *read.items]
            if len(items) >= limit:
                break
        return items and items[:limit]

    def pages(
        self, job_id: str, *, after: int, size: int, kinds: frozenset[EventKind] | None = None
    ) -> Generator[Page, None, None]:
        """Yield a log from behind `after` to its present end, at least one page unless there is no such job.

        A log that grows faster than it is read has no end here.
        """
        broken_seq = 0
        while True:
            look = self._look(job_id, after, size, kinds)
            if look is None:
                return
            if after >= look.archived_seq:
                page = _page(look, look.rows, is_whole=len(look.rows) < size, end=look.last_seq)
                yield page
            else:
                try:
                    for page in self._archived(job_id, look, after, size, kinds):
                        yield page
                        after = page.read_seq
                except WorkFailed:
                    if look.archived_seq == broken_seq:
                        raise
                    broken_seq = look.archived_seq  # a retried job was archived anew between the look and the reading
                    continue
            after = page.read_seq
            if after >= page.last_seq:
                return

    def _look(self, job_id: str, after: int, size: int, kinds: frozenset[EventKind] | None) -> Look | None:
        with self._database.read() as session:
            return event.look(session, job_id, after=after, limit=size, kinds=kinds)

    def _archived(
        self, job_id: str, look: Look, after: int, size: int, kinds: frozenset[EventKind] | None
    ) -> Generator[Page, None, None]:
        """Yield what the archive has; the last page is one that is not full, perhaps an empty one."""
        archive = Archive(job_id=job_id, project=look.project, seq=look.archived_seq)
        wanted = (item for item in archive.items(self._storage, after=after) if kinds is None or item.kind in kinds)
        is_whole = False
        while not is_whole:
            items = list(islice(wanted, size))
            is_whole = len(items) < size
            yield _page(look, items, is_whole=is_whole, end=look.archived_seq)


def _page(look: Look, items: list[Event], *, is_whole: bool, end: int) -> Page:
    read_seq = end if is_whole else items[-1].seq
    return Page(state=look.state, last_seq=look.last_seq, read_seq=read_seq, items=items)
