"""The shared end of a log."""

from api.jobs.logs import encode
from api.jobs.tail import Tail
from models.event import Event
from models.states import EventKind, WorkState


def test_new_items_have_no_state_until_it_is_known():
    """A job that is retried while somebody lags behind has not ended: only the items before that had its end."""
    tail = Tail()
    tail.begin(3)
    tail.stand(WorkState.FAILED)
    tail.append([encode(Event(work_id="job_1", seq=4, kind=EventKind.EVENT, message="Retried; queued again."))])
    assert (tail.head_seq, tail.state) == (4, None)
    tail.stand(WorkState.QUEUED)
    assert tail.state is WorkState.QUEUED
