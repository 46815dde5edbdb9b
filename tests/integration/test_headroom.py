"""Who may start: work whose plan fits what is free of a device and promised to nobody; on both databases."""

from datetime import timedelta

import pytest

from core.clock import utc_now
from core.queue import Queue
from models import claims, leases, worker
from models.claims import Offer
from models.device_memory import Promise, Room
from models.states import Kind, WorkState
from models.work import Work
from models.worker import Worker
from worker.headroom import HostHeadroom

GB = 10**9


@pytest.fixture
def device(database):
    """A device of 8 GB with two workers; what is free of it is what its jobs do not hold."""
    made = Device(database)
    for number in (1, 2):
        made.add_worker(f"wrk_{number}", pid=number)
    return made


class Device:
    """Nothing holds its memory but what the jobs have taken so far."""

    def __init__(self, database):
        self.database = database
        self.held = {}  # by the pid of the worker

    def add_worker(self, worker_id, *, pid, name="one device"):
        row = Worker(id=worker_id, queue=Queue.GPU, host="h", pid=pid, version="1", capacity={}, device=name)
        with self.database.write() as session:
            worker.beat(session, row.model_copy(update={"started_at_s": 0.0, "heartbeat_at_s": 0.0}))

    def headroom(self, promises):
        free = 8 * GB - sum(self.held.values())
        return Room.of(free, promises, [self.held.get(each.pid, 0) for each in promises])

    def claim(self, worker_id, name="one device"):
        offer = Offer(device=name, memory_bytes=8 * GB, headroom=self.headroom)
        with self.database.write() as session:
            return claims.claim(session, Queue.GPU, worker_id=worker_id, lease_s=600, offer=offer)

    def queue(self, number, memory_gb, *, least_gb=None, **values):
        memory, least = (None if each is None else round(each * GB) for each in (memory_gb, least_gb or memory_gb))
        row = Work(
            id=f"job_{number}", kind=Kind.TRAINING, queue=Queue.GPU, needed_bytes=memory, least_bytes=least, **values
        )
        with self.database.write() as session:
            session.add(row)

    def plans(self, claimed, memory_gb):
        """Let a run say what it will hold."""
        with self.database.write() as session:
            session.get_one(Work, claimed.work_id).promised_bytes = round(memory_gb * GB)

    def run(self, number, memory_gb, worker_id="wrk_1"):
        """Let a job be claimed that takes what it needs."""
        self.queue(number, memory_gb)
        claimed = self.claim(worker_id)
        assert claimed.work_id == f"job_{number}"
        self.plans(claimed, memory_gb)
        return claimed

    def end(self, claimed):
        with self.database.write() as session:
            assert leases.finish(session, claimed, WorkState.SUCCEEDED)

    def age(self, number, minutes):
        with self.database.write() as session:
            session.get_one(Work, f"job_{number}").created_at = utc_now() - timedelta(minutes=minutes)


def test_two_small_jobs_share_a_device_when_both_plans_fit(device):
    device.run(1, 3)
    device.queue(2, 4)
    second = device.claim("wrk_2")
    assert (second.work_id, second.room) == ("job_2", Room(beside_bytes=5 * GB, alone_bytes=8 * GB))


def test_a_job_is_not_squeezed_because_another_one_runs(device):
    """It would round its optimizer or its base, and learn otherwise than one like it that runs alone."""
    first = device.run(1, 4)
    device.queue(2, 6, least_gb=2)
    device.held = {1: 3 * GB}
    assert device.claim("wrk_2") is None, "4 GB would do for the least that it can hold, but not for what it is"
    device.end(first)
    device.held = {}
    assert device.claim("wrk_2").room == Room(beside_bytes=8 * GB, alone_bytes=8 * GB)


@pytest.mark.parametrize("needed_gb", [None, 2])
def test_nor_because_of_one_that_nobody_has_planned(device, needed_gb):
    """Its libraries alone took more than half a gigabyte from what another one thought it had alone."""
    device.queue(1, None)
    claimed = device.claim("wrk_1")
    if needed_gb is not None:
        device.plans(claimed, needed_gb)
    device.queue(2, 6, least_gb=2.5)
    device.held = {1: 5 * GB}
    assert device.claim("wrk_2") is None
    device.queue(3, 2)
    assert device.claim("wrk_2").room == Room(beside_bytes=3 * GB, alone_bytes=8 * GB)


def test_one_that_runs_on_another_device_of_its_worker_is_no_neighbour(device):
    device.queue(1, None)
    device.plans(device.claim("wrk_1"), 0)
    device.held = {9: 3 * GB}  # by something else
    device.queue(2, 6, least_gb=2.5)
    assert device.claim("wrk_2").room == Room(beside_bytes=5 * GB, alone_bytes=5 * GB)


def test_alone_a_job_takes_what_strangers_leave_when_the_least_is_there(device):
    device.held = {9: 4 * GB}  # by something else
    device.queue(1, 5, least_gb=4.5)
    device.queue(2, 6, least_gb=3)
    claimed = device.claim("wrk_1")
    assert (claimed.work_id, claimed.room) == ("job_2", Room(beside_bytes=4 * GB, alone_bytes=4 * GB))


def test_until_a_run_has_planned_all_that_it_was_given_is_its_own(device):
    device.queue(1, 3)
    device.queue(2, 3)
    first = device.claim("wrk_1")
    assert first.room.beside_bytes == 8 * GB
    assert device.claim("wrk_2") is None, "the first may fit itself into all of it"
    device.plans(first, 5)
    assert device.claim("wrk_2").room == Room(beside_bytes=3 * GB, alone_bytes=8 * GB)


def test_what_was_promised_is_not_given_twice_before_it_is_taken_nor_counted_twice_after(device):
    first = device.run(1, 5)
    device.queue(2, 4)
    for held in (0, 2 * GB, 5 * GB):
        device.held = {1: held}
        assert device.claim("wrk_2") is None, "3 GB are left, whatever the first one holds of its own"
    device.end(first)
    device.held = {}
    assert device.claim("wrk_2").work_id == "job_2"


def test_a_job_that_is_queued_again_needs_no_more_than_before(device):
    device.queue(1, 3)
    first = device.claim("wrk_1")
    device.plans(first, 7)
    with device.database.write() as session:
        assert leases.give_back(session, first, reason="a deploy")
    device.held = {9: 4 * GB}  # by something else
    assert device.claim("wrk_2").work_id == "job_1", "that it takes more where there is more does not count alone"


def test_other_devices_and_work_without_a_plan_are_not_in_the_way(device):
    device.add_worker("wrk_3", pid=3, name="another device")
    device.queue(1, 8)
    device.claim("wrk_3", name="another device")
    device.run(2, 8)
    device.queue(3, None)
    assert device.claim("wrk_2").work_id == "job_3", "nobody knows what it holds, so it is tried"


def test_smaller_work_overtakes_what_waits_for_memory_but_not_for_ever(device):
    first = device.run(1, 4)
    device.queue(2, 7)
    small = device.run(3, 1, "wrk_2")
    device.end(small)
    device.queue(4, 1)
    device.age(2, minutes=11)
    assert device.claim("wrk_2") is None, "the device is kept free for the one that waits"
    device.end(first)
    assert device.claim("wrk_2").work_id == "job_2"


def test_work_that_never_fits_keeps_nobody_waiting_and_hides_nobody_who_waits(device):
    device.queue(1, 9)
    device.age(1, minutes=60)
    device.run(2, 4)
    device.queue(3, 6)
    device.age(3, minutes=11)
    device.queue(4, 1)
    assert device.claim("wrk_2") is None, "for the third, not for the first, which would wait for ever"


def test_where_nobody_knows_what_is_free_work_is_taken(device):
    device.queue(1, 100)
    with device.database.write() as session:
        offer = Offer(device="one device")
        assert claims.claim(session, Queue.GPU, worker_id="wrk_1", lease_s=600, offer=offer).room is None


def test_this_machine_says_what_it_has():
    headroom = HostHeadroom()
    room = headroom([])
    assert 100 * 2**20 < room.beside_bytes == room.alone_bytes <= headroom.memory_bytes
    nobody = 2**22 + 1  # a pid that no process has
    owed = headroom([Promise(pid=nobody, memory_bytes=10**15)])
    assert owed.beside_bytes == 0 < owed.alone_bytes, "what a dead worker was promised is still owed"
