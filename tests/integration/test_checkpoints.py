"""Real runs on `tiny` that are killed, paused, stopped and damaged: they go on, and end as if nothing had happened."""

import os
import signal
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from core.db import Database
from core.ids import Prefix, new_id
from core.queue import Queue
from core.storage import Storage
from models import adapter as adapters
from models import checkpoint as checkpoints
from models import dataset as datasets
from models import event, worker
from models.claims import NOTHING_SPECIAL
from models.job import Job
from models.states import Kind, WorkState
from models.work import Work, attempts_of, transition
from models.worker import Worker
from ops.migrate import upgrade
from tests.conftest import wait_for
from tests.integration.conftest import colours, validation_of
from worker.kinds import Rooms
from worker.runner import Slot
from worker.training import Training

REQUEST = {
    "method": {"type": "lora", "dropout": 0.2, "r": 4},
    "hyperparameters": {
        "epochs": 8,
        "batch_size": 1,
        "checkpoint_every": 20,
        "learning_rate": 1e-3,
        "precision": "fp32",
    },
    "image": {},
    "resources": {},
}


class World:
    """A database, a store with a data set in it, and slots that run in this process."""

    def __init__(self, settings):
        self.settings = settings.model_copy(update={"stop_ask_s": 20.0})
        self.database = Database(settings.resolved_database_url)
        upgrade(self.database)
        self.storage = Storage.from_url(settings.resolved_storage_url)
        self.rooms = Rooms(self.database, self.storage, settings.layout)
        self.training = Training(self.rooms, feature_cache_bytes=10**9)
        self.validation = validation_of(self.rooms, self.settings)
        self._upload()

    def _upload(self):
        upload = colours(26)
        stored = self.storage.put_bytes(datasets.upload_key("default", "ds_1"), upload)
        with self.database.write() as session:
            session.add(Work(id="ds_1", kind=Kind.VALIDATION, queue=Queue.GPU))
            session.flush()
            row = datasets.Dataset(id="ds_1", name="colours", filename="c.zip", container="zip")
            session.add(row.model_copy(update={"upload_sha256": stored.sha256, "upload_bytes": stored.size_bytes}))
        with self.slot():
            wait_for(lambda: self.look("ds_1").state is WorkState.SUCCEEDED, what="the data set")

    def slot(self, offer=NOTHING_SPECIAL):
        worker_id = new_id(Prefix.WORKER)
        if offer.device is not None:
            row = Worker(id=worker_id, queue=Queue.GPU, host="h", pid=1, version="1", capacity={}, device=offer.device)
            with self.database.write() as session:
                worker.beat(session, row.model_copy(update={"started_at_s": 0.0, "heartbeat_at_s": 0.0}))
        return _Running(
            Slot(
                Queue.GPU,
                worker_id=worker_id,
                offer=offer,
                database=self.database,
                settings=self.settings,
                kinds={Kind.TRAINING: self.training, Kind.VALIDATION: self.validation},
            )
        )

    def submit(self, **request):
        with self.database.write() as session:
            dataset = session.get_one(datasets.Dataset, "ds_1")
            work = Work(id=new_id(Prefix.JOB), kind=Kind.TRAINING, queue=Queue.GPU)
            session.add(work)
            session.flush()
            names = {"name": "x", "base_model": "tiny", "dataset_id": "ds_1", "dataset_digest": dataset.digest}
            session.add(Job(id=work.id, **names, seed=5, request=REQUEST | request))
        return work.id

    def look(self, work_id):
        with self.database.read() as session:
            return session.get_one(Work, work_id)

    def items(self, work_id):
        with self.database.read() as session:
            return event.page(session, work_id, after=0, limit=10_000)

    def saved(self, work_id):
        with self.database.read() as session:
            return checkpoints.of_job(session, work_id)

    def attempts(self, work_id):
        with self.database.read() as session:
            return attempts_of(session, work_id)

    def undisturbed(self, **request):
        """Return what a job comes to whose run nothing happens to."""
        job_id = self.submit(**request)
        with self.slot():
            return self.ends(job_id)

    def ends(self, work_id):
        wait_for(lambda: self.look(work_id).finished_at is not None, what=f"the end of {work_id}")
        assert self.look(work_id).failure is None
        return self.outcome(work_id)

    def outcome(self, work_id):
        """Return the curve and the weights of a job, which do not depend on when it was disturbed."""
        clock = {"examples_per_s", "eta_s"}
        curve = [
            {name: value for name, value in item.data.items() if name not in clock}
            for item in self.items(work_id)
            if item.kind == "metric"
        ]
        with self.database.read() as session:
            adapter = adapters.get(session, adapters.of_jobs(session, [work_id])[work_id], project="default")
        weights = self.settings.data_dir / f"{work_id}.safetensors"
        self.storage.fetch(f"{adapter.prefix}/adapter_model.safetensors", weights)
        return curve, {name: tensor.tobytes() for name, tensor in load_file(weights).items()}


class _Running:
    def __init__(self, slot):
        self.slot = slot

    def __enter__(self):
        self.slot.start()
        return self.slot

    def __exit__(self, *_):
        self.slot.stop()
        self.slot.join()


@pytest.fixture
def world(settings):
    made = World(settings)
    yield made
    made.database.close()


def newest(world, job_id):
    rows = world.saved(job_id)
    return rows[0].step if rows else 0


def test_a_job_that_is_killed_paused_given_back_and_damaged_ends_as_an_undisturbed_one(world, children):
    long = {"hyperparameters": REQUEST["hyperparameters"] | {"epochs": 24}}  # it must not end before it is disturbed
    expected = world.undisturbed(**long)
    steps = [figures["step"] for figures in expected[0] if "loss" in figures]
    assert steps == list(range(1, steps[0] + len(steps)))
    job_id = world.submit(**long)
    with world.slot():
        wait_for(lambda: newest(world, job_id), what="a checkpoint")
        os.killpg(children[-1].pid, signal.SIGKILL)
        wait_for(lambda: len(world.attempts(job_id)) == 2, what="the second attempt")
        killed_at = newest(world, job_id)
        wait_for(lambda: newest(world, job_id) > killed_at, what="a checkpoint of the second attempt")
        with world.database.write() as session:
            transition(session, job_id, WorkState.PAUSING)
        wait_for(lambda: world.look(job_id).state is WorkState.PAUSED, what="the pause")
    whole, damaged = world.saved(job_id)[1], world.saved(job_id)[0]
    file = Path(world.settings.layout.storage) / damaged.prefix / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-1])
    with world.database.write() as session:
        transition(session, job_id, WorkState.QUEUED)
    with world.slot() as slot:
        wait_for(lambda: newest(world, job_id) > damaged.step, what="a checkpoint of the third attempt")
        slot.stop()
    assert world.look(job_id).state is WorkState.QUEUED, "given back"
    with world.slot():
        assert world.ends(job_id) == expected
    outcomes = [each.outcome for each in world.attempts(job_id)]
    assert outcomes == ["worker_lost", "paused", "given_back", "succeeded"]
    resumed = [each.resumed_step for each in world.attempts(job_id)]
    assert resumed[0] is None
    assert resumed[3] > resumed[2]
    assert resumed[2] == whole.step, "the newest was damaged"
    warnings = [item.message for item in world.items(job_id) if item.level == "warning"]
    assert any(f"The checkpoint of step {damaged.step} is damaged" in message for message in warnings)
    seqs = [item.seq for item in world.items(job_id)]
    assert seqs == list(range(1, world.look(job_id).last_seq + 1))
    told = [item.data["step"] for item in world.items(job_id) if item.kind == "checkpoint"]
    assert told == sorted(told)
    assert list(world.settings.layout.staging_root.iterdir()) == []
    assert list(world.storage.keys("staging")) == []


def test_only_the_newest_two_checkpoints_are_kept_and_each_has_its_objects(world):
    job_id = world.submit()
    with world.slot():
        world.ends(job_id)
    rows = world.saved(job_id)
    assert len(rows) == checkpoints.NUM_KEPT
    prefixes = {key.rpartition("/")[0] for key in world.storage.keys(checkpoints.checkpoints_prefix("default", job_id))}
    assert prefixes == {row.prefix for row in rows}


def test_without_its_checkpoints_a_job_begins_again_and_tells_no_step_twice(world, children):
    expected = world.undisturbed()
    job_id = world.submit()
    with world.slot():
        wait_for(lambda: newest(world, job_id), what="a checkpoint")
        with world.database.write() as session:
            checkpoints.forget(session, checkpoints.of_job(session, job_id))
        os.killpg(children[-1].pid, signal.SIGKILL)
        with world.database.write() as session:
            checkpoints.forget(session, checkpoints.of_job(session, job_id))
        assert world.ends(job_id) == expected


def test_a_fenced_attempt_stores_no_checkpoint(world, children):
    job_id = world.submit()
    with world.slot():
        wait_for(lambda: world.look(job_id).phase == "training", what="training")
        with world.database.write() as session:
            work = session.get_one(Work, job_id)
            work.fence, work.lease_owner = work.fence + 1, "wrk_other"
        wait_for(lambda: children[-1]._process.poll() is not None, what="the end of the child")
    assert [row.attempt for row in world.saved(job_id)] in ([], [1], [1, 1])
    before = len(world.items(job_id))
    assert world.look(job_id).state is WorkState.RUNNING
    assert before == world.look(job_id).last_seq
