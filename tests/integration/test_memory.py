"""Real runs on `tiny` that memory does not hold: the next attempt takes less, and ends as if it always had."""

import itertools
import os
import signal
from contextlib import ExitStack
from datetime import timedelta
from types import SimpleNamespace

import pytest

from core.events import Limited, Planned
from core.queue import Queue
from models import claims, memory_limit
from models.claims import Offer
from models.device_memory import Room
from models.job import Job
from models.states import WorkState
from models.work import Work
from tests.conftest import wait_for
from tests.integration.test_checkpoints import REQUEST, World, newest
from worker.curve import Curve
from worker.limits import Limits

LONG = {"hyperparameters": REQUEST["hyperparameters"] | {"epochs": 24}}  # it must not end before it is killed


@pytest.fixture
def world(settings):
    made = World(settings)
    yield made
    made.database.close()


def learned(world, job_id):
    with world.database.read() as session:
        return Limits(session.get_one(Job, job_id)).find(session)


def test_a_run_that_the_system_kills_goes_on_with_less(world, children, monkeypatch):
    expected = world.undisturbed(**LONG)
    kills = itertools.count(1_000_000)  # more with each look
    job_id = world.submit(**LONG)
    with world.slot():
        wait_for(lambda: newest(world, job_id), what="a checkpoint")
        monkeypatch.setattr("worker.attempt.memory_kills", lambda: next(kills))
        os.killpg(children[-1].pid, signal.SIGKILL)
        assert world.ends(job_id) == expected
    first, second = world.attempts(job_id)
    assert (first.outcome, first.failure["code"]) == ("failed", "out_of_memory")
    assert second.resumed_step, "it goes on from the checkpoint"
    assert children[-1].spec["pass_limit"]["gradient_checkpointing"], "each pass had one example already"
    assert learned(world, job_id).gradient_checkpointing


def test_what_a_run_learned_is_kept_for_the_next_one_like_it(world, children):
    job_id = world.submit()
    with world.slot():
        world.ends(job_id)
    assert learned(world, job_id) is None
    limit = {"num_examples": 1, "num_tokens": 300, "gradient_checkpointing": True}
    with world.database.write() as session:
        job = session.get_one(Job, job_id)
        memory_limit.learn(session, row_of(job, limit))
    again = world.submit()
    with world.slot():
        world.ends(again)
    assert children[-1].spec["pass_limit"] == limit
    other = world.submit(method={"type": "lora", "r": 8})
    with world.slot():
        world.ends(other)
    assert children[-1].spec["pass_limit"] is None, "it is another kind of run"


def test_limits_of_several_workers_become_the_smallest_and_are_forgotten_after_a_month(world):
    job_id = world.submit()
    with world.database.read() as session:
        job = session.get_one(Job, job_id)
    for examples, tokens, recomputes in ((4, 900, False), (8, None, True), (6, 700, False)):
        limit = {"num_examples": examples, "num_tokens": tokens, "gradient_checkpointing": recomputes}
        with world.database.write() as session:
            memory_limit.learn(session, row_of(job, limit))
    smallest = {"num_examples": 4, "num_tokens": 700, "gradient_checkpointing": True}
    assert learned(world, job_id).model_dump() == smallest
    with world.database.write() as session:
        session.get_one(memory_limit.MemoryLimit, Limits(job).key).learned_at -= timedelta(days=31)
    assert learned(world, job_id) is None
    with world.database.write() as session:
        memory_limit.learn(session, row_of(job, smallest | {"num_examples": 9}))
    assert learned(world, job_id).num_examples == 9


def test_a_run_that_is_killed_before_its_first_pass_learns_nothing(world, children, monkeypatch):
    kills = itertools.count(1_000_000)
    job_id = world.submit(**LONG)
    with world.slot():
        wait_for(lambda: children, what="the child")
        monkeypatch.setattr("worker.attempt.memory_kills", lambda: next(kills))
        os.killpg(children[-1].pid, signal.SIGKILL)
        wait_for(lambda: world.look(job_id).finished_at is not None, what="the end")
    assert world.look(job_id).failure["code"] == "out_of_memory"
    assert learned(world, job_id) is None


def row_of(job, limit):
    limits = Limits(job)
    return memory_limit.MemoryLimit(key=limits.key, device="x", base_model=job.base_model, limit=limit)


def tells(world, job_id, event):
    """Let the run of a job tell something."""
    with world.database.read() as session:
        job = session.get_one(Job, job_id)
    with world.database.write() as session:
        Curve(job, None, resumed_step=None).record(session, job_id, event)


def test_the_limit_that_a_child_tells_is_written_with_its_log(world, monkeypatch):
    job_id = world.submit()
    limit = {"num_examples": 2, "num_tokens": None, "gradient_checkpointing": False}
    tells(world, job_id, Limited(limit=limit))
    assert learned(world, job_id).model_dump() == limit


def test_what_all_processes_of_a_run_may_hold_is_promised(world, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # which another test of this process may have set
    job_id = world.submit(resources={"gpus": 0, "num_processes": 3})
    tells(world, job_id, Planned(plan={"device": "cpu", "needed": 10**9, "peak": {}}))
    assert world.look(job_id).promised_bytes == 3 * 10**9
    assert world.look(job_id).needed_bytes is None, "whichever worker comes next may be of another kind"


def test_a_run_that_is_found_to_hold_more_than_was_foreseen_waits_for_that_the_next_time(world, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    job_id = world.submit()
    with world.database.write() as session:
        session.get_one(Work, job_id).needed_bytes = 2
        session.get_one(Job, job_id).plan = {"device": "cpu"}
    for device, planned, needed in (("cpu", 1, 2), ("cpu", 5, 5), ("cpu", 3, 5), ("cuda", 9, 5)):
        tells(world, job_id, Planned(plan={"device": device, "needed": planned, "peak": {}}))
        assert (world.look(job_id).promised_bytes, world.look(job_id).needed_bytes) == (planned, needed)


def test_a_run_on_the_processor_of_a_worker_with_a_gpu_holds_nothing_of_that(world, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    job_id = world.submit(resources={"gpus": 0})
    tells(world, job_id, Planned(plan={"device": "cpu", "needed": 10**9, "peak": {}}))
    assert world.look(job_id).promised_bytes == 0


@pytest.mark.parametrize(
    ("visible", "resources", "told"),
    [("", {}, (3, 4)), ("", {"gpus": 0}, (3, 4)), ("0", {}, (3, 4)), ("0", {"gpus": 0}, (None, None))],
)
def test_a_run_is_told_the_room_on_its_own_device(world, tmp_path, monkeypatch, visible, resources, told):
    """The processor of a worker with a GPU has another memory than that GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    world.submit(resources=resources)
    offer = Offer(gpus=1, device="d", headroom=lambda _: Room(beside_bytes=3, alone_bytes=4))
    with world.database.write() as session:
        claimed = claims.claim(session, Queue.GPU, worker_id="wrk_1", lease_s=60, offer=offer)
    attempt = SimpleNamespace(claim=claimed, check=lambda: None, hold=lambda: None)
    spec = world.training.prepare(attempt, tmp_path)
    assert (spec["beside_bytes"], spec["alone_bytes"]) == told


def test_a_finished_job_tells_what_it_held(world):
    job_id = world.submit()
    with world.slot():
        world.ends(job_id)
    with world.database.read() as session:
        job = session.get_one(Job, job_id)
    assert world.look(job_id).state is WorkState.SUCCEEDED
    assert job.peak_memory_bytes == job.measured["peak_memory_bytes"] > job.measured["empty_memory_bytes"]
    assert set(job.measured["peak_memory_by_phase"]) == {"loading", "preparing", "training", "evaluating", "publishing"}


@pytest.mark.parametrize(("machine_gb", "share"), [(16, True), (1.6, False)])
def test_two_real_jobs_share_a_machine_that_holds_both_and_take_turns_on_one_that_does_not(
    world, machine_gb, share, monkeypatch
):
    """The machine is made up, what the runs plan is not: about 1.1 GB each."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # which another test of this process may have set

    def headroom(promises):
        return Room.of(round(machine_gb * 1e9), promises, [0] * len(promises))

    offers = [Offer(device="this machine", headroom=headroom)] * 2
    lasting = {"hyperparameters": REQUEST["hyperparameters"] | {"epochs": 16}}
    jobs = [world.submit(**lasting) for _ in offers]
    with world.database.write() as session:
        for job_id in jobs:
            session.get_one(Work, job_id).needed_bytes = 10**9
    with ExitStack() as stack:
        for offer in offers:
            stack.enter_context(world.slot(offer=offer))
        for job_id in jobs:
            world.ends(job_id)
    (first,), (second,) = sorted((world.attempts(job_id) for job_id in jobs), key=lambda each: each[0].began_s)
    assert (second.began_s < first.ended_s) is share
    with world.database.read() as session:
        planned = session.get_one(Work, jobs[0]).promised_bytes
    assert 0.9e9 < planned < 1.5e9, "what its run planned, not all that it was given"
