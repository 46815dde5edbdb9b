"""What becomes of a child's events beside its log."""

from sqlmodel import Session

from core.events import ChildEvent


class Recorder:
    """Takes notice of one child's events. This one writes nothing further; each kind of work has its own."""

    def hear(self, event: ChildEvent) -> bool:
        """Take notice, once and outside of any transaction; False: the log has it already, or gets it elsewhere."""
        del event
        return True

    def record(self, session: Session, work_id: str, event: ChildEvent) -> None:
        """Write what the event means for the rows; the caller holds the fence in the same transaction."""

    def written(self, event: ChildEvent) -> None:
        """Take notice that the rows have an event, and all that was said before it."""

    def settle(self) -> None:
        """Finish what was begun for earlier events, as far as the lease still holds; no more events will come."""
