"""Keeping a lease while the database fails: the holder gives it up before somebody else can have it."""

import threading
import time
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from core.db import Database
from core.queue import Queue
from models import claims
from models.states import Kind
from models.work import Work
from ops.migrate import upgrade
from tests.conftest import wait_for
from worker.lease import Lease

LEASE_S, HEARTBEAT_S = 4.0, 0.3


class Sick:
    """The real database; `ill` is what happens to every session that is opened."""

    def __init__(self, database):
        self._database = database
        self.ill = lambda: None

    @contextmanager
    def write(self):
        self.ill()
        with self._database.write() as session:
            yield session


@pytest.fixture
def sick(settings):
    database = Database(settings.resolved_database_url)
    upgrade(database)
    yield Sick(database)
    database.close()


@pytest.fixture
def claimed(sick):
    with sick.write() as session:
        session.add(Work(id="job_1", kind=Kind.TRAINING, queue=Queue.GPU))
        session.flush()
        return claims.claim(session, Queue.GPU, worker_id="wrk_1", lease_s=LEASE_S)


@pytest.fixture
def lease(sick, claimed):
    return Lease(sick, claimed, lease_s=LEASE_S, heartbeat_s=HEARTBEAT_S)


class Child:
    """What a lease knows of a child."""

    def __init__(self, kill):
        self.kill = kill
        self.until = []

    def prolong(self, until):
        self.until.append(until)


def raises(error):
    def ill():
        raise error

    return ill


def hangs(until: threading.Event):
    return lambda: until.wait(30)


def test_a_lease_is_kept_for_longer_than_it_lasts(sick, lease):
    started = time.monotonic()
    with lease:
        wait_for(lambda: time.monotonic() - started > 2 * LEASE_S, what="two leases' time")
        assert not lease.lost.is_set()


def test_a_child_hears_of_every_prolongation_until_when_it_may_live(lease):
    child = Child(lambda: None)
    with lease, lease.tethering(child):
        wait_for(lambda: len(child.until) >= 3, what="three heartbeats")
    assert child.until == sorted(child.until)
    assert all(until <= time.monotonic() + LEASE_S - HEARTBEAT_S for until in child.until)


def test_who_was_frozen_for_longer_than_the_lease_knows_it_before_any_thread_has_noticed(lease):
    assert lease.is_held
    lease._kept_until = time.monotonic() + HEARTBEAT_S / 2
    assert not lease.lost.is_set()
    assert not lease.is_held


@pytest.mark.parametrize("error", [sa.exc.OperationalError, sa.exc.InternalError])
def test_a_moment_of_trouble_costs_nothing(sick, lease, error):
    with lease:
        sick.ill = raises(error("UPDATE", {}, Exception("no")))
        assert not lease.lost.wait(HEARTBEAT_S * 2)
        sick.ill = lambda: None
        assert not lease.lost.wait(LEASE_S)


@pytest.mark.parametrize("trouble", ["away", "hung", "unforeseen"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lease_that_cannot_be_prolonged_is_given_up_in_time_and_the_child_is_killed(sick, lease, trouble):
    """A database that hangs held the only thread that looked at the clock: the child trained on beside its successor."""
    healed, killed = threading.Event(), threading.Event()
    sick.ill = {
        "away": raises(sa.exc.OperationalError("UPDATE", {}, Exception("no"))),
        "hung": hangs(healed),
        "unforeseen": raises(RuntimeError("no")),
    }[trouble]
    with lease, lease.tethering(Child(killed.set)):
        assert lease.lost.wait(30)
        assert killed.wait(5)
        healed.set()


def test_who_starts_a_child_after_the_loss_kills_it_at_once(lease):
    killed = []
    lease.lost.set()
    with lease.tethering(Child(lambda: killed.append(1))):
        assert killed == [1]


def test_a_worker_that_was_frozen_while_it_claimed_holds_nothing_when_it_wakes(sick, claimed):
    asked_at = time.monotonic() - LEASE_S
    late = Lease(sick, claimed, lease_s=LEASE_S, heartbeat_s=HEARTBEAT_S, asked_at=asked_at)
    assert not late.is_held
    with late:
        assert late.lost.wait(HEARTBEAT_S)
