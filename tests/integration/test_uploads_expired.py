"""Uploads that nobody finished: a worker removes them, their parts first."""

from datetime import timedelta

import pytest
from sqlmodel import select

from core.clock import utc_now
from core.queue import Queue
from core.storage import Storage
from models.upload import Upload, UploadPart
from tests.conftest import wait_for
from worker.service import Service
from worker.uploads import sweep_uploads


@pytest.fixture
def storage(tmp_path):
    return Storage.from_url((tmp_path / "objects").as_uri())


def add(database, storage, upload_id, *, expires_in_s):
    expires_at = utc_now() + timedelta(seconds=expires_in_s)
    upload = Upload(id=upload_id, filename="a.zip", size_bytes=6, part_bytes=3, expires_at=expires_at)
    key = f"default/uploads/{upload_id}/1-req_1"
    stored = storage.put_bytes(key, b"abc")
    storage.put_bytes(f"{key}2", b"of an API that died before it wrote the row")
    with database.write() as session:
        session.add(upload)
        session.flush()
        session.add(UploadPart(upload_id=upload_id, number=1, key=key, sha256=stored.sha256, size_bytes=3))


def there(database, storage) -> tuple[set[str], set[str]]:
    """Return the uploads that have a row, and those that have objects."""
    with database.read() as session:
        rows = set(session.exec(select(Upload.id)))
        assert set(session.exec(select(UploadPart.upload_id))) == rows
    return rows, {key.split("/")[2] for key in storage.keys("default/uploads")}


def test_what_expired_is_removed_with_its_parts_and_nothing_else(database, storage):
    add(database, storage, "upl_old", expires_in_s=-1)
    add(database, storage, "upl_old2", expires_in_s=60)
    sweep_uploads(database, storage)
    assert there(database, storage) == ({"upl_old2"}, {"upl_old2"})


def test_a_store_that_is_away_keeps_the_row_for_the_next_sweep(database, storage, tmp_path):
    add(database, storage, "upl_old", expires_in_s=-2)
    add(database, storage, "upl_older", expires_in_s=-1)
    folder = tmp_path / "objects/default/uploads/upl_old"
    (folder / "loop").symlink_to("loop")  # a link to itself cannot be listed, not even by root
    sweep_uploads(database, storage)
    with database.read() as session:
        assert set(session.exec(select(Upload.id))) == {"upl_old"}
    (folder / "loop").unlink()
    sweep_uploads(database, storage)
    assert there(database, storage) == (set(), set())


def test_every_worker_sweeps(settings, api_database):
    storage = Storage.from_url(settings.resolved_storage_url)
    add(api_database, storage, "upl_old", expires_in_s=-1)
    service = Service(Queue.CPU, settings, beat=False)
    service.start()
    try:
        wait_for(lambda: there(api_database, storage) == (set(), set()), what="the sweep")
    finally:
        service.stop()
