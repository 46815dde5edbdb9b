"""Claim, fence, heartbeat, end, sweep: the same promises on SQLite and on PostgreSQL."""

import itertools
import threading

import pytest
import sqlalchemy as sa
from sqlmodel import col

from core.db import NowS
from core.queue import Queue
from models import claims, control, event, expiry, leases
from models.event import Item
from models.states import TRANSITIONS, AttemptOutcome, EventKind, Kind, WorkState, sources
from models.work import Work, attempts_of, transition

LEASE_S = 60.0
_ids = itertools.count()


@pytest.fixture
def queued(database):
    """Return a function that queues one more piece of work."""

    def add(**values) -> str:
        work = Work(id=f"job_{next(_ids):05}", kind=Kind.TRAINING, queue=Queue.GPU, **values)
        with database.write() as session:
            session.add(work)
        return work.id

    return add


def claim(database, worker_id="wrk_a", lease_s=LEASE_S):
    with database.write() as session:
        return claims.claim(session, Queue.GPU, worker_id=worker_id, lease_s=lease_s)


def look(database, work_id) -> Work:
    with database.read() as session:
        return session.get_one(Work, work_id)


def expire(database, work_id):
    with database.write() as session:
        session.execute(sa.update(Work).where(col(Work.id) == work_id).values(lease_until_s=NowS() - 1))


def sweep(database, max_attempts=3):
    with database.write() as session:
        over = expiry.Expiry(lease_s=LEASE_S, confirm_s=0).over(session)
        return expiry.sweep(session, max_attempts=max_attempts, over=over)


def test_work_is_claimed_by_priority_and_then_by_age(database, queued):
    first, second, urgent = queued(), queued(), queued(priority=5)
    assert [claim(database).work_id for _ in range(3)] == [urgent, first, second]
    assert claim(database) is None


def test_many_workers_at_once_claim_each_piece_of_work_once(database, queued):
    wanted = {queued() for _ in range(20)}
    claimed, gate = [], threading.Barrier(6)

    def work(name):
        gate.wait()
        while (one := claim(database, worker_id=name)) is not None:
            claimed.append(one.work_id)

    threads = [threading.Thread(target=work, args=(f"wrk_{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(wanted)


def test_a_stale_holder_can_write_nothing(database, queued):
    queued()
    old = claim(database)
    expire(database, old.work_id)
    assert sweep(database).expired == (old.work_id,)
    new = claim(database, worker_id="wrk_b")
    assert new.fence > old.fence
    item = Item(kind=EventKind.LOG, message="from the past")
    with database.write() as session:
        assert leases.heartbeat(session, old, lease_s=LEASE_S) is None
        assert not event.append(session, old.work_id, [item], fence=old.fence)
        assert not leases.finish(session, old, WorkState.SUCCEEDED)
        assert not leases.give_back(session, old, reason="late")
    with database.write() as session:
        assert leases.finish(session, new, WorkState.SUCCEEDED)
    assert look(database, old.work_id).state is WorkState.SUCCEEDED


def test_work_whose_worker_died_too_often_fails_as_worker_lost(database, queued):
    work_id = queued()
    for _ in range(3):
        assert claim(database) is not None
        expire(database, work_id)
        sweep(database)
    work = look(database, work_id)
    assert work.state is WorkState.FAILED
    assert work.failure["code"] == "worker_lost"
    with database.read() as session:
        assert [a.outcome for a in attempts_of(session, work_id)] == [AttemptOutcome.WORKER_LOST] * 3


def test_work_given_back_costs_no_attempt(database, queued):
    work_id = queued()
    for _ in range(5):
        given = claim(database)
        with database.write() as session:
            assert leases.give_back(session, given, reason="deploy")
    work = look(database, work_id)
    assert (work.state, work.lost_attempts, work.attempt) == (WorkState.QUEUED, 0, 5)


def test_a_cancel_of_waiting_work_is_immediate_and_of_running_work_reaches_its_worker(database, queued):
    waiting = queued()
    with database.write() as session:
        assert control.cancel(session, waiting) is WorkState.CANCELLED
    running = queued()
    held = claim(database)
    assert held.work_id == running
    with database.write() as session:
        assert control.cancel(session, running) is WorkState.CANCELLING
        assert leases.heartbeat(session, held, lease_s=LEASE_S) is WorkState.CANCELLING
        assert not leases.finish(session, held, WorkState.SUCCEEDED), "a cancel that came first wins"
        assert leases.finish(session, held, WorkState.CANCELLED)
        assert control.cancel(session, running) is None, "what has ended cannot be cancelled"


def test_cancelling_work_whose_worker_died_is_cancelled_by_the_sweep(database, queued):
    work_id = queued()
    claim(database)
    with database.write() as session:
        control.cancel(session, work_id)
    expire(database, work_id)
    sweep(database)
    assert look(database, work_id).state is WorkState.CANCELLED


def test_the_sweep_names_the_work_that_waits_so_that_its_bell_is_rung_again(database, queued):
    work_id = queued()
    assert sweep(database).waiting == {Queue.GPU: work_id}


def test_log_numbers_have_no_gaps_and_no_doubles_under_concurrent_writers(database, queued):
    work_id = queued()

    def write(count):
        for number in range(count):
            with database.write() as session:
                event.append(session, work_id, [Item(kind=EventKind.LOG, message=f"{number}")] * 2)

    threads = [threading.Thread(target=write, args=(15,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        items = event.page(session, work_id, after=0, limit=1000)
    assert [item.seq for item in items] == list(range(1, 121))


DESIGN = """
validating -> queued failed
queued -> running cancelled
running -> succeeded failed queued cancelling pausing
pausing -> paused queued failed
paused -> queued cancelled
cancelling -> cancelled
failed -> queued
cancelled -> queued
"""


def test_the_table_of_transitions_is_the_one_of_the_design():
    lines = (line.split() for line in DESIGN.strip().splitlines())
    assert {state: set(targets) for state, targets in TRANSITIONS.items() if targets} == {
        before: set(after) for before, _, *after in lines
    }


def test_sql_allows_exactly_the_table_of_transitions(database, queued):
    for before, after in itertools.product(WorkState, WorkState):
        work_id = queued(state=before)
        with database.write() as session:
            moved = transition(session, work_id, after)
        assert moved == (after in TRANSITIONS[before]), (before, after)
        assert look(database, work_id).state is (after if moved else before)


def test_every_state_but_the_one_of_v1_can_be_entered():
    entered = {state for state in WorkState if sources(state)}
    assert set(WorkState) - entered == {WorkState.VALIDATING}


def test_a_bare_string_that_is_no_state_is_refused_by_the_database(database, queued):
    work_id = queued()
    with pytest.raises(sa.exc.IntegrityError), database.write() as session:
        session.execute(sa.text("UPDATE work SET state = 'sleeping' WHERE id = :id"), {"id": work_id})


def test_a_holder_whose_lease_was_swept_can_neither_cancel_nor_revive_nor_requeue(database, queued):
    """Between the sweep and the next claim the row still carries the old fence, so the fence alone does not guard it."""
    work_id = queued()
    old = claim(database)
    expire(database, work_id)
    sweep(database)
    with database.write() as session:
        assert not leases.finish(session, old, WorkState.CANCELLED), "nobody asked for a cancel"
        assert not leases.finish(session, old, WorkState.FAILED)
        assert not leases.give_back(session, old, reason="late")
    assert look(database, work_id).state is WorkState.QUEUED
    again = claim(database)
    with database.write() as session:
        control.cancel(session, work_id)
    expire(database, work_id)
    sweep(database)
    with database.write() as session:
        assert not leases.give_back(session, again, reason="late")
    assert look(database, work_id).state is WorkState.CANCELLED


def test_a_message_with_a_nul_is_stored_on_every_database(database, queued):
    work_id = queued()
    with database.write() as session:
        event.append(session, work_id, [Item(kind=EventKind.LOG, message="a\0b", data={"c\0d": "e\0f"})])
    with database.read() as session:
        (item,) = event.page(session, work_id, after=0, limit=10)
    assert item.message == "a\ufffdb"


def test_work_that_was_asked_to_pause_is_not_given_back_but_paused(database, queued):
    work_id = queued()
    held = claim(database)
    with database.write() as session:
        assert control.pause(session, work_id)
    with database.write() as session:
        assert not leases.give_back(session, held, reason="the worker was told to stop.")
        assert leases.pause(session, held)
    assert look(database, work_id).state is WorkState.PAUSED


def test_work_that_fails_for_want_of_storage_while_it_pauses_is_paused(database, queued):
    work_id = queued()
    held = claim(database)
    failure = {"code": "storage", "detail": "The disk is full.", "remedy": "Make room.", "retryable": True}
    with database.write() as session:
        assert control.pause(session, work_id)
        assert leases.try_again(session, held, failure, max_attempts=3, retry_s=60)
    work = look(database, work_id)
    assert (work.state, work.failure, work.failed_attempts) == (WorkState.PAUSED, None, 1)
    with database.read() as session:
        (attempt,) = attempts_of(session, work_id)
    assert (attempt.outcome, attempt.failure["code"]) == (AttemptOutcome.FAILED, "storage")
