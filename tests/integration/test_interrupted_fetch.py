"""Fetching before the child begins: whoever is told to stop in the middle of it leaves off."""

import hashlib
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.queue import Queue
from core.storage import Storage
from models import claims
from models.dataset import image_key, upload_key
from models.states import WorkState
from models.work import Work
from tests.integration.conftest import validation_of
from tests.integration.jobs import add_job
from vlm.conversation import RECORDS_FILE
from worker.attempt import Attempt, Interrupted
from worker.kinds import Rooms
from worker.lease import Lease
from worker.training import Training


class Stopping(Storage):
    """A store that is fetched from while a deploy begins: after so many fetches the worker is told to stop."""

    shutdown: threading.Event
    num_left: int

    def fetch(self, key, target, **named):
        super().fetch(key, target, **named)
        self.num_left -= 1
        if self.num_left == 0:
            self.shutdown.set()


@pytest.fixture
def world(database, settings, tmp_path):
    storage = Stopping.from_url(settings.resolved_storage_url)
    storage.shutdown, storage.num_left = threading.Event(), 3
    with database.write() as session:
        add_job(session)
    names = []
    for number in range(9):
        data = f"picture {number}".encode()
        names.append(hashlib.sha256(data).hexdigest())
        storage.put_bytes(image_key("default", names[-1]), data)
    pq.write_table(pa.table({"images": [names]}), tmp_path / RECORDS_FILE)
    storage.put_file("default/datasets/ds_job_1/records-d.parquet", tmp_path / RECORDS_FILE)
    storage.put_bytes(upload_key("default", "ds_job_1"), b"x" * 3_000_000)
    return Rooms(database, storage, settings.layout), storage


def attempt_at(rooms, settings, storage, queue):
    with rooms.database.write() as session:
        claimed = claims.claim(session, queue, worker_id="w", lease_s=60)
    lease = Lease(rooms.database, claimed, lease_s=60, heartbeat_s=10)
    return Attempt(lease, database=rooms.database, settings=settings, shutdown=storage.shutdown)


def test_a_job_leaves_off_between_two_pictures_and_leaves_nothing_half_made(world, settings, tmp_path):
    rooms, storage = world
    attempt = attempt_at(rooms, settings, storage, Queue.GPU)
    with pytest.raises(Interrupted):
        Training(rooms, feature_cache_bytes=0).prepare(attempt, tmp_path / "staging")
    assert storage.num_left == 0, "no further picture was fetched"
    assert list(settings.layout.datasets.iterdir()) == []


def test_a_validation_leaves_off_in_the_middle_of_its_upload(world, settings, tmp_path):
    rooms, storage = world
    with rooms.database.write() as session:
        session.get_one(Work, "ds_job_1").state = WorkState.QUEUED
    attempt = attempt_at(rooms, settings, storage, Queue.CPU)
    storage.shutdown.set()
    (tmp_path / "staging").mkdir()
    with pytest.raises(Interrupted):
        validation_of(rooms, settings).prepare(attempt, tmp_path / "staging")
