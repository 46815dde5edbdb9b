"""The janitor removes what no row names, once it is old enough, and never what is named or on its way."""

import os
import subprocess
import sys
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlmodel import col, update

from core.clock import utc_now
from core.db import Database
from core.storage import Storage
from models import checkpoint as checkpoints
from models import dataset as datasets
from models import job as jobs
from models.adapter import Adapter
from models.dataset import Dataset, image_key
from models.leases import Claim
from models.states import Kind, WorkState
from models.work import Work
from ops.migrate import upgrade
from tests.integration.jobs import add_job
from tests.integration.test_backup import House
from vlm.conversation import RECORDS_FILE
from worker import janitor, validation
from worker.staging import sweep_staging

DAY_S = 24 * 3600.0


@pytest.fixture
def house(settings, tmp_path):
    made = House(settings, tmp_path)
    table = pa.table({"images": [["a" * 64], ["a" * 64, "b" * 64]]})
    pq.write_table(table, tmp_path / RECORDS_FILE)
    made.storage.put_file(f"default/datasets/ds_1/records-{'d' * 64}.parquet", tmp_path / RECORDS_FILE)
    for name in "abc":
        made.storage.put_bytes(image_key("default", name * 64), name.encode())
    yield made
    made.database.close()


def age(settings, key, seconds=2 * DAY_S):
    path = settings.layout.storage / key
    moment = path.stat().st_mtime - seconds
    os.utime(path, (moment, moment))


def age_all(house):
    for key in list(house.storage.keys("")):
        age(house.settings, key)


def clean(house, **options):
    return janitor.clean(house.database, house.storage, **{"grace_s": DAY_S} | options)


STRAY = {
    "adapters": f"default/adapters/{'e' * 64}/adapter_model.safetensors",
    "jobs": f"default/jobs/job_2/checkpoints/{'e' * 64}/optimizer.pt",
    "datasets": "default/datasets/ds_gone/upload",
    "uploads": "default/uploads/upl_gone/1-abc",
    "images": f"default/images/{'c' * 64}",
    "staging": "staging/req_1",
}


def test_what_no_row_names_goes_and_all_else_stays(house):
    for key in STRAY.values():
        house.storage.put_bytes(key, b"stray")
    stray = set(STRAY.values())
    kept = set(house.storage.keys("")) - stray
    age_all(house)
    told = clean(house, dry_run=True)
    assert set(house.storage.keys("")) == kept | stray, "a dry run only tells"
    report = clean(house)
    assert report.objects == told.objects == dict.fromkeys(STRAY, 1)
    assert report.size_bytes["adapters"] == len(b"stray")
    assert set(house.storage.keys("")) == kept
    assert clean(house).objects == {}


def test_what_is_young_stays_because_its_row_may_be_on_its_way(house):
    for key in STRAY.values():
        house.storage.put_bytes(key, b"stray")
    before = set(house.storage.keys(""))
    assert clean(house).objects == {}
    assert set(house.storage.keys("")) == before


def test_an_object_that_is_written_again_while_the_janitor_works_stays(house, monkeypatch):
    key = STRAY["adapters"]
    house.storage.put_bytes(key, b"stray")
    age_all(house)
    unnamed = janitor._unnamed

    def listed(*asked):
        found = list(unnamed(*asked))
        house.storage.put_bytes(key, b"anew")
        return found

    monkeypatch.setattr(janitor, "_unnamed", listed)
    clean(house)
    assert house.storage.read(key) == b"anew"


def test_an_object_that_is_written_while_it_is_removed_stays(house, monkeypatch):
    """Moved aside as the old one, it is there anew before anybody has looked at it."""
    key, old = STRAY["adapters"], utc_now() - timedelta(seconds=DAY_S)
    house.storage.put_bytes(key, b"stray")
    assert house.storage.delete_old(key, before=old) is False, "it was written after that moment"
    assert house.storage.read(key) == b"stray"
    age(house.settings, key)
    is_younger = Storage.is_younger

    def looked(storage, *asked):
        storage.put_bytes(key, b"anew")
        return is_younger(storage, *asked)

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "is_younger", looked)
        assert house.storage.delete_old(key, before=old)
    assert house.storage.read(key) == b"anew"
    with monkeypatch.context() as patched:
        patched.setattr(Storage, "is_younger", lambda *_: house.storage.put_bytes(key, b"again"))
        house.storage.delete_old(key, before=old)
    assert house.storage.read(key) == b"again"
    assert house.storage.delete_old("default/adapters/none", before=old) is False
    assert list(house.storage.keys("staging")) == []


def test_what_killed_writers_left_goes_though_no_listing_shows_it(house):
    folder = house.settings.layout.storage / "staging"
    folder.mkdir(exist_ok=True)
    for name in ("req_old#1", "req_young#1"):
        (folder / name).write_bytes(b"part")
    age(house.settings, "staging/req_old#1")
    assert clean(house, dry_run=True).objects == clean(house).objects == {"staging": 1}
    assert [path.name for path in folder.iterdir()] == ["req_young#1"]


def test_what_belongs_to_what_was_deleted_goes(house):
    age_all(house)
    with house.database.write() as session:
        datasets.delete(session, "ds_1")
        session.execute(update(Adapter).values(sha256="9" * 64))
    report = clean(house)
    assert report.objects == {"datasets": 2, "images": 3, "adapters": 2}
    assert {key.split("/")[1] for key in house.storage.keys("")} == {"jobs"}


def test_a_table_that_cannot_be_read_saves_every_image(house):
    stray = STRAY["adapters"]
    house.storage.put_bytes(stray, b"stray")
    house.storage.put_bytes(f"default/datasets/ds_1/records-{'d' * 64}.parquet", b"no table")
    age_all(house)
    assert clean(house).objects == {"adapters": 1}, "the rest is cleaned all the same"
    with house.database.write() as session:
        session.execute(update(Dataset).where(col(Dataset.id) == "ds_1").values(digest="f" * 64))
    clean(house)
    assert len(list(house.storage.keys("default/images"))) == 3


@pytest.mark.parametrize(
    ("state", "days", "kept"),
    [
        (WorkState.SUCCEEDED, 0, False),
        (WorkState.FAILED, 6, True),
        (WorkState.FAILED, 8, False),
        (WorkState.CANCELLED, 8, False),
        (WorkState.PAUSED, 99, True),
        (WorkState.QUEUED, 99, True),
    ],
)
def test_a_job_keeps_its_checkpoints_as_long_as_an_attempt_may_need_them(house, state, days, kept):
    with house.database.write() as session:
        work = session.get_one(Work, "job_2")
        work.state, work.finished_at = state, utc_now() - timedelta(days=days)
    janitor.forget_checkpoints(house.database, house.storage, keep_days=7)
    with house.database.read() as session:
        assert bool(checkpoints.of_job(session, "job_2")) == kept
    assert bool(list(house.storage.keys("default/jobs/job_2"))) == kept


def test_the_checkpoints_of_a_job_that_is_being_retried_are_passed_by(new_postgres):
    database = Database(new_postgres)
    upgrade(database)
    with database.write() as session:
        work = session.get_one(Work, add_job(session))
        work.state, work.finished_at = WorkState.FAILED, utc_now() - timedelta(days=9)
        checkpoints.add(session, checkpoints.Checkpoint(id="c", job_id="job_1", step=4, sha256="e" * 64, size_bytes=1))
    old = {"ended_before": utc_now() - timedelta(days=7), "limit": 9}
    with database.write() as retrying:
        assert jobs.hold(retrying, "job_1", project="default")
        with database.write() as sweeping:
            assert checkpoints.superfluous(sweeping, **old) == []
    with database.write() as sweeping:
        assert len(checkpoints.superfluous(sweeping, **old)) == 1
    database.close()


def test_the_command_tells_what_it_does(house, settings):
    house.storage.put_bytes(STRAY["adapters"], b"stray")
    age_all(house)
    command = [sys.executable, "-m", "worker.janitor"]
    environment = os.environ | {"LENSMITH_DATA_DIR": str(settings.data_dir)}
    for extra, first in ((["--dry-run"], "would be removed:"), ([], "removed:")):
        ended = subprocess.run([*command, *extra], capture_output=True, text=True, env=environment, check=True)
        assert ended.stdout.splitlines()[0] == first
        assert "adapters            1 objects" in ended.stdout


def test_staging_folders_that_no_lease_holds_are_removed(house, settings):
    with house.database.write() as session:
        work = session.get_one(Work, "job_3")
        work.state, work.fence = WorkState.RUNNING, 7
    for name in ("job_3-7", "job_3-6", "job_1-1"):
        (settings.layout.staging_root / name).mkdir(parents=True)
    sweep_staging(house.database, settings.layout)
    assert [path.name for path in settings.layout.staging_root.iterdir()] == ["job_3-7"]


def test_an_image_that_is_old_is_stored_again_by_a_validation_that_needs_it(house, tmp_path, monkeypatch):
    """Else the janitor, who found no table that names it, would remove it under the new one."""
    young, old = image_key("default", "a" * 64), image_key("default", "c" * 64)
    age(house.settings, old)
    claim = Claim(work_id="ds_2", project="default", kind=Kind.VALIDATION, fence=1, attempt=1)
    monkeypatch.setattr(validation, "packed_images", lambda _: iter([("a" * 64, b"other"), ("c" * 64, b"other")]))
    validation._store_images(house.storage, claim, tmp_path, grace_s=DAY_S)
    assert (house.storage.read(young), house.storage.read(old)) == (b"a", b"other")
