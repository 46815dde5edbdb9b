"""What users ask of work: cancel, pause, resume, retry. Each is one conditional UPDATE, and a line of the log."""

from sqlmodel import Session

from core.clock import utc_now
from models.event import note
from models.states import LEASED, WorkState
from models.work import transition

_ALL = frozenset(WorkState)


def cancel(session: Session, work_id: str) -> WorkState | None:
    """Ask for the end of a piece of work; return the state it came to, None where that cannot be asked."""
    for _ in range(2):  # a give-back may come between
        if withdraw(session, work_id):
            return WorkState.CANCELLED
        if transition(session, work_id, WorkState.CANCELLING):
            note(session, work_id, "Cancel requested.", state=WorkState.CANCELLING)
            return WorkState.CANCELLING
    return None


def withdraw(session: Session, work_id: str) -> bool:
    """Cancel a piece of work that no worker holds; False: one does, or it has ended."""
    if not transition(session, work_id, WorkState.CANCELLED, unless=LEASED, finished_at=utc_now()):
        return False
    note(session, work_id, "Cancelled.", state=WorkState.CANCELLED)
    return True


def pause(session: Session, work_id: str) -> bool:
    """Ask a running piece of work to save and let go of its device; False: it does not run."""
    if not transition(session, work_id, WorkState.PAUSING):
        return False
    note(session, work_id, "Pause requested.", state=WorkState.PAUSING)
    return True


def resume(session: Session, work_id: str) -> bool:
    """Queue what was paused; False: it is not paused."""
    if not transition(session, work_id, WorkState.QUEUED, unless=_ALL - {WorkState.PAUSED}):
        return False
    note(session, work_id, "Resumed: queued again.", state=WorkState.QUEUED)
    return True


def retry(session: Session, work_id: str) -> bool:
    """Queue what failed or was cancelled, under the same id, for one more attempt; False: it did not end like this."""
    moved = transition(
        session,
        work_id,
        WorkState.QUEUED,
        unless=_ALL - {WorkState.FAILED, WorkState.CANCELLED},
        failure=None,
        finished_at=None,
        lost_attempts=0,
        failed_attempts=0,
        available_at_s=0.0,
    )
    if not moved:
        return False
    note(session, work_id, "Retried: queued again.", state=WorkState.QUEUED)
    return True
