"""Who may start: work whose plan fits what is free of a device and promised to nobody; on both databases."""

from datetime import timedelta

import pytest

from core.clock import utc_now
from core.queue import Queue
from models import claims, leases, worker
from models.claims import Offer, Promise
from models.states import Kind, WorkState
from models.work import Work
from models.worker import Worker
from worker.headroom import HostHeadroom, left

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
        return left(free, promises, [self.held.get(each.pid, 0) for each in promises])

    def claim(self, worker_id, name="one device"):
        offer = Offer(device=name, memory_bytes=8 * GB, headroom=self.headroom)
        with self.database.write() as session:
            return claims.claim(session, Queue.GPU, worker_id=worker_id, lease_s=600, offer=offer)

    def queue(self, number, memory_gb, **values):
        memory = None if memory_gb is None else round(memory_gb * GB)
        row = Work(id=f"job_{number}", kind=Kind.TRAINING, queue=Queue.GPU, memory_bytes=memory, **values)
        with self.database.write() as session:
            session.add(row)

    def end(self, claimed):
        with self.database.write() as session:
            assert leases.finish(session, claimed, WorkState.SUCCEEDED)


def test_two_small_jobs_share_a_device_when_both_plans_fit(device):
    device.queue(1, 3)
    device.queue(2, 4)
    assert device.claim("wrk_1").work_id == "job_1"
    second = device.claim("wrk_2")
    assert (second.work_id, second.headroom_bytes) == ("job_2", 5 * GB)


def test_what_was_promised_is_not_given_twice_before_it_is_taken_nor_counted_twice_after(device):
    device.queue(1, 5)
    device.queue(2, 4)
    first = device.claim("wrk_1")
    for held in (0, 2 * GB, 5 * GB):
        device.held = {1: held}
        assert device.claim("wrk_2") is None, "3 GB are left, whatever the first one holds of its own"
    device.end(first)
    device.held = {}
    assert device.claim("wrk_2").work_id == "job_2"


def test_a_job_that_holds_less_than_it_may_leaves_no_room_for_more(device):
    device.queue(1, 5)
    device.queue(2, 3)
    device.claim("wrk_1")
    device.held = {1: GB}
    assert device.claim("wrk_2").work_id == "job_2"


def test_other_devices_and_work_without_a_plan_are_not_in_the_way(device):
    device.add_worker("wrk_3", pid=3, name="another device")
    device.queue(1, 8)
    device.claim("wrk_3", name="another device")
    device.queue(2, 8)
    assert device.claim("wrk_1").work_id == "job_2"
    device.queue(3, None)
    assert device.claim("wrk_2").work_id == "job_3", "nobody knows what it holds, so it is tried"


def test_smaller_work_overtakes_what_waits_for_memory_but_not_for_ever(device):
    device.queue(1, 4)
    device.claim("wrk_1")
    device.queue(2, 7)
    device.queue(3, 1)
    small = device.claim("wrk_2")
    assert small.work_id == "job_3"
    device.end(small)
    device.queue(4, 1)
    with device.database.write() as session:
        session.get_one(Work, "job_2").created_at = utc_now() - timedelta(minutes=11)
    assert device.claim("wrk_2") is None, "the device is kept free for the one that waits"


def test_work_that_never_fits_keeps_nobody_waiting(device):
    device.queue(1, 9, created_at=utc_now() - timedelta(hours=1))
    device.queue(2, 1)
    assert device.claim("wrk_1").work_id == "job_2"


def test_where_nobody_knows_what_is_free_work_is_taken(device):
    device.queue(1, 100)
    with device.database.write() as session:
        offer = Offer(device="one device")
        assert claims.claim(session, Queue.GPU, worker_id="wrk_1", lease_s=600, offer=offer).headroom_bytes is None


def test_this_machine_says_what_it_has():
    headroom = HostHeadroom()
    free = headroom([])
    assert 100 * 2**20 < free <= headroom.memory_bytes
    nobody = 2**22 + 1  # a pid that no process has
    assert headroom([Promise(pid=nobody, memory_bytes=10**15)]) == 0, "what a dead worker was promised is still owed"
