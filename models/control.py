"""What a user asks of a piece of work: cancel, pause, resume, retry. Each is one conditional UPDATE and one sentence.

A worker that holds the lease hears of it with its next heartbeat, and ends the work as `models.leases` says.
"""

from typing import Any

from sqlmodel import Session

from core.clock import utc_now
from models.event import note
from models.states import ACTIONS, LEASED, Action, WorkState
from models.work import transition

# Of work that begins again: what its attempts came to so far counts no more.
_AFRESH: dict[str, Any] = {
    "failure": None,
    "finished_at": None,
    "lost_attempts": 0,
    "failed_attempts": 0,
    "available_at_s": 0.0,
}


def cancel(session: Session, work_id: str) -> WorkState | None:
    """Ask for the end of a piece of work; return the state it came to, None if it cannot be cancelled."""
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
    """Ask running work to save and to free its device; False: it does not run."""
    return _ask(session, work_id, Action.PAUSE, WorkState.PAUSING, "Pause requested.")


def resume(session: Session, work_id: str) -> bool:
    """Queue paused work, which goes on from its last checkpoint; False: it is not paused."""
    return _ask(session, work_id, Action.RESUME, WorkState.QUEUED, "Resumed; queued again.", available_at_s=0.0)


def retry(session: Session, work_id: str) -> bool:
    """Queue work that failed or was cancelled, with all its attempts before it again; False: it did not end so."""
    return _ask(session, work_id, Action.RETRY, WorkState.QUEUED, "Retried; queued again.", **_AFRESH)


def _ask(session: Session, work_id: str, action: Action, target: WorkState, message: str, **values: Any) -> bool:
    elsewhere = frozenset(WorkState) - ACTIONS[action].keys()
    if not transition(session, work_id, target, unless=elsewhere, **values):
        return False
    note(session, work_id, message, state=target)
    return True
