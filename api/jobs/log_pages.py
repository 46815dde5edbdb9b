"""One page of a job's log: the one place where endpoints that answer in pages read items."""

from api.services import Services
from models.event import Event
from models.states import EventKind


def read_page(
    services: Services, job_id: str, *, after: int, limit: int, kinds: frozenset[EventKind] | None
) -> tuple[list[Event], int | None]:
    """Return the items with a number above `after`, and the `after` of the next page; None: there are no more yet."""
    rows = services.history.page(job_id, after=after, limit=limit + 1, kinds=kinds) or []
    shown = rows[:limit]
    return shown, shown[-1].seq if len(rows) > limit else None
