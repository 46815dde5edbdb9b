"""A database that goes away between a commit and its answer: what was written is not written twice, nothing is left out."""

import random
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from core.events import Checkpoint, Log, Metric, Resolved
from core.manifest import make_manifest
from core.queue import Queue
from core.storage import Storage
from models import checkpoint as rows
from models import claims, event, leases
from models import job as jobs
from models.job import Job
from models.states import WorkState
from models.work import Work, attempts_of, note_resumed
from tests.conftest import wait_for
from tests.integration.conftest import attempt_of
from tests.integration.jobs import run_job
from worker import checkpoints, supervisor
from worker.curve import Curve
from worker.kinds import Rooms
from worker.recorder import Recorder

BEFORE, AFTER = "before the commit", "after the commit"


class Flaky:
    """The real database, with a fault for each of the next transactions."""

    def __init__(self, database):
        self._database = database
        self.faults = []
        self.read = database.read

    @contextmanager
    def write(self):
        fault = self.faults.pop(0) if self.faults else None
        with self._database.write() as session:
            yield session
            if fault == BEFORE:
                raise sa.exc.OperationalError("INSERT", {}, Exception("the connection is gone"))
        if fault == AFTER:
            raise sa.exc.OperationalError("COMMIT", {}, Exception("the connection is gone"))


@pytest.fixture
def claimed(database):
    return run_job(database)


class Writer:
    """The part of a supervisor that writes, over a database that is flaky."""

    def __init__(self, database, claimed, recorder):
        self.database = Flaky(database)
        self.backlog = supervisor.Backlog()
        self._recorder = recorder
        self._lease = SimpleNamespace(claim=claimed, state=WorkState.RUNNING)

    def say(self, *said):
        self.backlog.events += [(each, self._recorder.hear(each)) for each in said]
        return self.write()

    def write(self):
        return supervisor._write(self.database, self._lease, self._recorder, self.backlog, supervisor.nobody)


def messages(database):
    with database.read() as session:
        items = event.page(session, "job_1", after=2, limit=9999)  # behind the beginning of its attempt
    assert [item.seq for item in items] == list(range(3, 3 + len(items)))
    return [item.message for item in items]


def test_a_commit_whose_answer_is_lost_is_not_written_again(database, claimed):
    writer = Writer(database, claimed, Recorder())
    writer.database.faults = [AFTER]
    assert writer.say(Log(message="a"))
    assert writer.say(Log(message="b")), "what came meanwhile is written"
    assert messages(database) == ["a", "b"]
    assert writer.backlog.events == []


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_lost_each_item_stands_there_once_and_in_order(database, claimed, seed):
    dice, said = random.Random(seed), []
    writer = Writer(database, claimed, Recorder())
    for number in range(25):
        batch = [Log(message=f"{number}.{part}") for part in range(dice.randint(0, 3))]
        writer.database.faults = dice.choices([None, BEFORE, AFTER], k=2)
        said += [each.message for each in batch]
        assert writer.say(*batch)
    writer.database.faults = []
    assert writer.write()
    assert messages(database) == said


def test_the_flushes_of_another_attempt_are_not_taken_for_ones_own(database, claimed):
    Writer(database, claimed, Recorder()).say(Log(message="of the first attempt"))
    with database.write() as session:
        session.get_one(Work, "job_1").state = WorkState.QUEUED
    with database.write() as session:
        again = claims.claim(session, Queue.GPU, worker_id="wrk_2", lease_s=60)
    writer = Writer(database, again, Recorder())
    writer.database.faults = [BEFORE]
    writer.say(Log(message="of the second"))
    writer.write()
    assert messages(database)[-1] == "of the second"


def test_a_curve_that_begins_anew_has_the_steps_that_were_written_together_with_the_reason(database, claimed):
    with database.write() as session:
        jobs.record(session, "job_1", settings={"a": 1}, provenance={}, progress={"told_step": 9, "evaluated_step": 0})
        event.append(session, "job_1", [event.Item(kind="metric", data={"step": 9, "loss": 1.0})], fence=claimed.fence)
    with database.read() as session:
        curve = Curve(session.get_one(Job, "job_1"), SimpleNamespace(), resumed_step=None)
    writer = Writer(database, claimed, curve)
    writer.database.faults = [None, AFTER]
    resolved = Resolved(settings={"a": 2}, provenance={})
    assert writer.say(Log(message="loading"), resolved, *(Metric(data={"step": n, "loss": 2.0}) for n in (1, 2)))
    assert writer.write()
    with database.read() as session:
        job = session.get_one(Job, "job_1")
        items = event.page(session, "job_1", after=job.metrics_from_seq - 1, limit=99)
    assert [item.data["step"] for item in items if item.kind == "metric"] == [1, 2]
    assert job.progress["told_step"] == 2


@pytest.fixture
def keeping(database, claimed, settings, tmp_path):
    """A worker's rooms over a flaky database, an attempt, and a checkpoint that its child has saved."""
    flaky = Flaky(database)
    attempt = attempt_of(claimed, database, settings)
    rooms = Rooms(flaky, Storage.from_url(settings.resolved_storage_url), settings.layout)
    folder = tmp_path / "staging" / "checkpoints" / "step-00000004"
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(b"state")
    saved = Checkpoint(step=4, path="checkpoints/step-00000004", sha256=make_manifest(folder).sha256, size_bytes=5)
    return rooms, attempt, saved, tmp_path / "staging"


def test_a_checkpoint_is_named_after_all_that_was_said_before_it(database, claimed, keeping):
    """Else a worker that dies in between leaves a curve with a gap: whoever goes on does not do those steps again."""
    rooms, attempt, saved, staging = keeping
    with database.read() as session:
        curve = Curve(session.get_one(Job, "job_1"), checkpoints.Keeper(rooms, attempt, staging), resumed_step=None)
    writer = Writer(database, claimed, curve)
    writer.database.faults = [BEFORE]
    assert writer.say(*(Metric(data={"step": n, "loss": 2.0}) for n in (1, 2, 3, 4)), saved)
    wait_for(lambda: list(rooms.storage.keys("default/jobs")), what="the objects")
    time.sleep(0.2)
    with database.read() as session:
        assert rows.of_job(session, "job_1") == [], "the rows do not have its steps yet"
    assert writer.write()
    curve.settle()
    assert messages(database) == [None] * 4 + ["Step 4 is saved."]
    with database.read() as session:
        assert [each.step for each in rows.of_job(session, "job_1")] == [4]


def test_a_checkpoint_whose_steps_are_never_written_is_left_unnamed(database, keeping):
    rooms, attempt, saved, staging = keeping
    keeper = checkpoints.Keeper(rooms, attempt, staging)
    keeper.offer(saved)
    keeper.settle()
    with database.read() as session:
        assert rows.of_job(session, "job_1") == []


@pytest.mark.parametrize("fault", [BEFORE, AFTER])
def test_a_checkpoint_whose_row_had_no_answer_is_named_and_told_once(database, keeping, fault, monkeypatch):
    rooms, attempt, saved, staging = keeping
    monkeypatch.setattr(checkpoints, "_PATIENCE_S", 0.0)
    rooms.database.faults = [fault]
    keeper = checkpoints.Keeper(rooms, attempt, staging)
    keeper.offer(saved)
    keeper.allow(saved.step)
    keeper.settle()
    assert messages(database) == ["Step 4 is saved."]
    with database.read() as session:
        assert [each.step for each in rows.of_job(session, "job_1")] == [4]
    assert checkpoints.bring(rooms, attempt, staging / "next") == 4


def test_what_is_brought_may_be_brought_again(keeping):
    """The row that says from where an attempt goes on may find no database, after the files have come."""
    rooms, attempt, saved, staging = keeping
    keeper = checkpoints.Keeper(rooms, attempt, staging)
    keeper.offer(saved)
    keeper.allow(saved.step)
    keeper.settle()
    assert [checkpoints.bring(rooms, attempt, staging / "next") for _ in range(2)] == [4, 4]


def test_an_attempt_that_is_over_is_not_told_from_where_it_went_on(database, claimed):
    with database.write() as session:
        note_resumed(session, "job_1", 4, fence=claimed.fence)
        leases.give_back(session, claimed, reason="a test")
    with database.write() as session:
        note_resumed(session, "job_1", 9, fence=claimed.fence)
        assert [each.resumed_step for each in attempts_of(session, "job_1")] == [4]
