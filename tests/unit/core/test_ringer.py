"""Ringing from a thread: nobody waits for the broker, and the last ring before the end is sent."""

import threading

from core.queue import Queue
from core.ringer import AT_ONCE, Ringer
from tests.conftest import wait_for


class SlowDoorbell:
    """A broker that takes each message only when it is let to."""

    def __init__(self):
        self.rung = []
        self.free = threading.Event()

    def ring(self, queue, work_id):
        self.rung.append((queue, work_id))
        assert self.free.wait(60)
        return True


def test_rings_during_a_ring_are_gathered_each_once_and_no_queue_starves():
    doorbell = SlowDoorbell()
    ringer = Ringer(doorbell)
    ringer.ring(Queue.GPU, "job_first")
    wait_for(lambda: doorbell.rung)
    for number in range(1000):
        ringer.ring(Queue.GPU, f"job_{number}")
        ringer.ring(Queue.GPU, "job_0")
    ringer.ring(Queue.CPU, "ds_1")
    doorbell.free.set()
    ringer.close(within_s=60)
    assert len(doorbell.rung) == 1 + AT_ONCE + 1
    assert doorbell.rung[2] == (Queue.CPU, "ds_1"), "it does not wait behind all of the other queue"
    assert doorbell.rung[-1] == (Queue.GPU, f"job_{AT_ONCE - 1}")


def test_a_ring_right_before_the_end_is_sent():
    doorbell = SlowDoorbell()
    doorbell.free.set()
    ringer = Ringer(doorbell)
    ringer.ring(Queue.GPU, "job_1")
    ringer.close(within_s=60)
    assert doorbell.rung == [(Queue.GPU, "job_1")]


def test_the_end_does_not_wait_for_a_broker_that_hangs():
    doorbell = SlowDoorbell()
    ringer = Ringer(doorbell)
    ringer.ring(Queue.GPU, "job_1")
    ringer.ring(Queue.GPU, "job_2")
    ringer.close(within_s=0.05)
    assert doorbell.rung == [(Queue.GPU, "job_1")]
    doorbell.free.set()


def test_closing_a_ringer_that_never_rang_is_nothing():
    Ringer(SlowDoorbell()).close(within_s=60)
