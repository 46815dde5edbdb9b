"""Whose lease is over, when clocks are set and sweepers look at different moments: on SQLite and on PostgreSQL."""

import pytest
import sqlalchemy as sa
from sqlmodel import col

from core.queue import Queue
from models import claims, expiry, leases
from models.expiry import Expiry
from models.states import Kind, WorkState
from models.work import Work, attempts_of, transition

LEASE_S, CONFIRM_S = 60.0, 10.0
HOUR_S = 3600.0


@pytest.fixture
def watch(clock):
    return Expiry(lease_s=LEASE_S, confirm_s=CONFIRM_S, clock=clock)


@pytest.fixture
def claimed(database):
    with database.write() as session:
        session.add(Work(id="job_1", kind=Kind.TRAINING, queue=Queue.GPU))
        session.flush()
        return claims.claim(session, Queue.GPU, worker_id="wrk_1", lease_s=LEASE_S)


def over(database, watch):
    with database.read() as session:
        return [work_id for work_id, _ in watch.over(session)]


def sweep(database, watch, max_attempts=3):
    with database.write() as session:
        return expiry.sweep(session, max_attempts=max_attempts, over=watch.over(session))


def set_clock(database, by_s):
    """Set the database's clock: seen from a lease, its end moves the other way."""
    with database.write() as session:
        session.execute(sa.update(Work).values(lease_until_s=col(Work.lease_until_s) - by_s))


def beat(database, claimed):
    with database.write() as session:
        return leases.heartbeat(session, claimed, lease_s=LEASE_S)


def look(database):
    with database.read() as session:
        return session.get_one(Work, "job_1")


def test_a_lease_that_is_kept_is_not_over(database, claimed, watch, clock):
    for _ in range(10):
        assert over(database, watch) == []
        clock.now += LEASE_S / 3
        beat(database, claimed)


def test_a_clock_that_jumps_ahead_takes_nothing_from_a_worker_that_lives(database, claimed, watch, clock):
    assert over(database, watch) == []
    set_clock(database, by_s=HOUR_S)
    clock.now += 1
    assert over(database, watch) == [], "every lease looks overdue at once"
    assert beat(database, claimed) is WorkState.RUNNING
    clock.now += CONFIRM_S
    assert over(database, watch) == []


def test_a_clock_that_jumps_ahead_does_not_hide_a_dead_worker(database, claimed, watch, clock):
    set_clock(database, by_s=HOUR_S)
    assert over(database, watch) == []
    clock.now += CONFIRM_S
    assert over(database, watch) == ["job_1"]


def test_a_clock_that_is_set_back_does_not_keep_the_lease_of_a_dead_worker(database, claimed, watch, clock):
    """It would have lasted an hour longer."""
    set_clock(database, by_s=-HOUR_S)
    assert over(database, watch) == []
    clock.now += LEASE_S - 1
    assert over(database, watch) == []
    clock.now += 2
    assert over(database, watch) == ["job_1"]
    assert sweep(database, watch).expired == ("job_1",)
    assert look(database).state is WorkState.QUEUED


def test_a_heartbeat_between_the_look_and_the_sweep_wins(database, claimed, watch, clock):
    set_clock(database, by_s=HOUR_S)
    over(database, watch)
    clock.now += CONFIRM_S
    with database.read() as session:
        seen = watch.over(session)
    assert seen
    beat(database, claimed)
    with database.write() as session:
        assert expiry.sweep(session, max_attempts=3, over=seen).expired == ()
    assert look(database).state is WorkState.RUNNING


def test_a_new_claim_of_the_same_work_is_looked_at_anew(database, claimed, watch, clock):
    set_clock(database, by_s=HOUR_S)
    over(database, watch)
    clock.now += CONFIRM_S - 1
    with database.write() as session:
        leases.give_back(session, claimed, reason="deploy")
        claims.claim(session, Queue.GPU, worker_id="wrk_2", lease_s=-1)
    clock.now += 2
    assert over(database, watch) == []


def test_a_pausing_job_whose_worker_is_gone_is_paused_and_a_cancelling_one_cancelled(database, claimed, watch, clock):
    for asked, target in ((WorkState.PAUSING, WorkState.PAUSED), (WorkState.CANCELLING, WorkState.CANCELLED)):
        with database.write() as session:
            if asked is WorkState.CANCELLING:
                transition(session, "job_1", WorkState.QUEUED)
                claims.claim(session, Queue.GPU, worker_id="wrk_2", lease_s=LEASE_S)
            assert transition(session, "job_1", asked)
        sweep(database, watch)
        clock.now += LEASE_S + 1
        assert sweep(database, watch).expired == ("job_1",)
        assert look(database).state is target
    with database.read() as session:
        assert [each.outcome for each in attempts_of(session, "job_1")] == ["worker_lost"] * 2


def test_work_that_comes_further_is_not_lost_however_often_its_workers_die(database, claimed, watch, clock):
    for _ in range(5):
        sweep(database, watch)
        clock.now += LEASE_S + 1
        assert sweep(database, watch).expired == ("job_1",)
        assert look(database).state is WorkState.QUEUED
        with database.write() as session:
            leases.gained(session, claims.claim(session, Queue.GPU, worker_id="wrk_2", lease_s=LEASE_S))
    for left in (2, 1, 0):
        sweep(database, watch)
        clock.now += LEASE_S + 1
        assert sweep(database, watch).expired == ("job_1",)
        with database.write() as session:
            assert (claims.claim(session, Queue.GPU, worker_id="wrk_2", lease_s=LEASE_S) is not None) == bool(left)
    assert look(database).failure["code"] == "worker_lost"
