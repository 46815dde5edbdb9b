"""What differs between the kinds of leased work, behind one interface."""

from pathlib import Path
from typing import Any, Protocol

from sqlmodel import Session

from core.db import Database
from core.layout import Layout
from core.storage import Storage
from worker.attempt import Attempt
from worker.recorder import Recorder


class Apply(Protocol):
    """The rows that a success or a failure writes, in the same transaction as the end of the work."""

    def __call__(self, session: Session) -> None:
        """Write them."""


class WorkKind(Protocol):
    """One kind of work: load -> (child) -> publish -> apply. No session is open while anything is fetched or stored."""

    module: str

    def prepare(self, attempt: Attempt, staging: Path) -> dict[str, Any]:
        """Load the rows, bring the files into place, and return the child's spec. What takes long asks `attempt.check`."""

    def may_read_hub(self, spec: dict[str, Any]) -> bool:
        """Tell whether the child needs the token of the Hub for what the spec says."""

    def recorder(self, attempt: Attempt, staging: Path) -> Recorder:
        """Return who takes notice of the events of this attempt's child."""

    def publish(self, attempt: Attempt, staging: Path, result: dict[str, Any]) -> Apply:
        """Store what the child made and return the rows to write. Raises `WorkFailed`."""

    def salvage(self, attempt: Attempt, staging: Path) -> Apply:
        """Store what is worth keeping of a failure (a report, say) and return the rows to write."""

    def relieve(self, attempt: Attempt) -> bool:
        """Make the next attempt take less memory than this one, which had too little; False: it cannot."""


class Rooms:
    """What every kind needs: the database, the object store, the data directory."""

    def __init__(self, database: Database, storage: Storage, layout: Layout) -> None:
        self.database = database
        self.storage = storage
        self.layout = layout


def nothing(session: Session) -> None:
    """Write no further row."""
    del session
