"""Backups of the embedded service: taken while it works, whole or refused by name, and restored as they were."""

import io
import signal
import subprocess
import sys
import tarfile
import threading
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from sqlmodel import select

from core.db import Database
from core.errors import WorkFailed
from core.manifest import make_manifest
from core.queue import Queue
from core.storage import Storage
from models import checkpoint as checkpoints
from models import claims, event, leases
from models.adapter import Adapter, adapter_prefix
from models.checkpoint import Checkpoint, checkpoint_prefix
from models.dataset import Dataset
from models.job import Job
from models.states import Kind, WorkState
from models.work import Work, attempts_of, transition
from ops import archive, data
from ops import backup as module
from ops.backup import backup
from ops.errors import CannotStart
from ops.migrate import upgrade
from ops.restore import restore
from tests.conftest import wait_for


class House:
    """A data directory with a few jobs, an adapter and a checkpoint."""

    def __init__(self, settings, tmp_path):
        self.settings = settings
        self.database = Database(settings.resolved_database_url)
        upgrade(self.database)
        self.storage = Storage.from_url(settings.resolved_storage_url)
        with self.database.write() as session:
            session.add(Work(id="ds_1", kind=Kind.VALIDATION, queue=Queue.CPU, state=WorkState.SUCCEEDED))
            session.flush()
            session.add(Dataset(id="ds_1", name="c", filename="c.zip", upload_sha256="0" * 64, digest="d" * 64))
        for key in ("default/datasets/ds_1/upload", f"default/datasets/ds_1/records-{'d' * 64}.parquet"):
            self.storage.put_bytes(key, b"bytes of " + key.encode())
        for name in ("job_1", "job_2", "job_3"):
            self.add(name)
        self.adapter = self._folder(tmp_path, "adapter", lambda sha256: adapter_prefix("default", sha256))
        self.checkpoint = self._folder(tmp_path, "saved", lambda sha256: checkpoint_prefix("default", "job_2", sha256))
        with self.database.write() as session:
            made = {"state": "ready", "base_model": "tiny", "base_revision": "r", "size_bytes": 1}
            session.add(Adapter(id="adp_1", job_id="job_1", name="a", sha256=self.adapter, **made))
            saved = Checkpoint(id="ckpt_1", job_id="job_2", step=4, sha256=self.checkpoint, size_bytes=1)
            checkpoints.add(session, saved)

    def add(self, job_id):
        with self.database.write() as session:
            session.add(Work(id=job_id, kind=Kind.TRAINING, queue=Queue.GPU))
            session.flush()
            named = {"name": "x", "base_model": "tiny", "dataset_id": "ds_1", "dataset_digest": "d" * 64}
            session.add(Job(id=job_id, **named, seed=0, request={}))

    def _folder(self, tmp_path, name, prefix):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(name.encode() * 1000)
        manifest = make_manifest(folder)
        self.storage.put_folder(prefix(manifest.sha256), folder)
        return manifest.sha256


@pytest.fixture
def house(settings, tmp_path):
    made = House(settings, tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def elsewhere(settings, tmp_path):
    return settings.model_copy(update={"data_dir": tmp_path / "restored"})


def rows(database):
    with database.read() as session:
        names = sorted(sa.inspect(session.connection()).get_table_names())
        return {name: sorted(map(repr, session.execute(sa.text(f"SELECT * FROM {name}")).all())) for name in names}


def objects(settings):
    storage = Storage.from_url(settings.resolved_storage_url)
    return {key: storage.read(key) for key in storage.keys("") if not key.startswith("staging/")}


def test_what_is_restored_is_what_was_backed_up(house, elsewhere, tmp_path):
    before = rows(house.database), objects(house.settings)
    backup(house.settings, tmp_path / "b.tar")
    assert restore(elsewhere, tmp_path / "b.tar") == 0
    database = Database(elsewhere.resolved_database_url)
    assert (rows(database), objects(elsewhere)) == before
    database.close()
    assert not [path for path in tmp_path.iterdir() if path.suffix in {".part", ".db"}]
    assert list(elsewhere.layout.run.glob("restoring-*")) == []


def test_what_ran_is_queued_again_and_what_was_asked_is_done(house, elsewhere, tmp_path):
    with house.database.write() as session:
        for _ in range(3):
            assert claims.claim(session, Queue.GPU, worker_id="wrk_1", lease_s=60)
        transition(session, "job_2", WorkState.PAUSING)
        transition(session, "job_3", WorkState.CANCELLING)
    backup(house.settings, tmp_path / "b.tar")
    assert restore(elsewhere, tmp_path / "b.tar") == 1
    database = Database(elsewhere.resolved_database_url)
    with database.read() as session:
        states = {work.id: work.state for work in session.exec(select(Work).where(Work.kind == Kind.TRAINING))}
        assert [each.outcome for each in attempts_of(session, "job_1")] == ["given_back"]
        assert [each.step for each in checkpoints.of_job(session, "job_2")] == [4]
    database.close()
    assert states == {"job_1": WorkState.QUEUED, "job_2": WorkState.PAUSED, "job_3": WorkState.CANCELLED}
    with house.database.read() as session:
        assert session.get_one(Work, "job_1").state is WorkState.RUNNING, "the service itself goes on"


def test_a_backup_that_is_taken_while_jobs_are_written_is_of_one_moment(house, elsewhere, tmp_path):
    stop, count = threading.Event(), 0

    def write():
        nonlocal count
        while not stop.is_set():
            count += 1
            house.add(f"job_w{count:04}")
            with house.database.write() as session:
                claim = claims.claim(session, Queue.GPU, worker_id="w", lease_s=60)
                event.note(session, claim.work_id, "a line")
                leases.finish(session, claim, WorkState.SUCCEEDED)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        wait_for(lambda: count > 5, what="some jobs")
        backup(house.settings, tmp_path / "b.tar")
    finally:
        stop.set()
        thread.join()
    restore(elsewhere, tmp_path / "b.tar")
    database = Database(elsewhere.resolved_database_url)
    with database.read() as session:
        for work in session.exec(select(Work)):
            assert [item.seq for item in event.page(session, work.id, after=0, limit=99)] == list(
                range(1, work.last_seq + 1)
            )
    database.close()


def members(file):
    with tarfile.open(file) as tar:
        return [(info, tar.extractfile(info).read()) for info in tar]


def rewrite(file, out, change):
    with tarfile.open(out, "w") as tar:
        for info, content in members(file):
            changed = change(info, content)
            info.size = len(changed)
            tar.addfile(info, io.BytesIO(changed))
    return out


def test_a_damaged_member_is_refused_by_its_name_and_nothing_is_restored(house, elsewhere, tmp_path):
    backup(house.settings, tmp_path / "b.tar")
    names = [info.name for info, _ in members(tmp_path / "b.tar")]
    assert len(names) == 2 + 2 + 4  # database, manifest; two objects of the data set; an adapter and a checkpoint
    for name in names:
        bad = rewrite(
            tmp_path / "b.tar",
            tmp_path / "bad.tar",
            lambda info, content, name=name: b"x" + content[1:] if info.name == name else content,
        )
        with pytest.raises(CannotStart, match="manifest.json" if name == archive.MANIFEST else name):
            restore(elsewhere, bad)
        assert not elsewhere.layout.database.exists()
        assert list(elsewhere.layout.storage.iterdir()) == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_backup_that_is_cut_off_is_refused(house, elsewhere, tmp_path, share):
    backup(house.settings, tmp_path / "b.tar")
    whole = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CannotStart, match=r"cut\.tar"):
        restore(elsewhere, tmp_path / "cut.tar")
    assert not elsewhere.layout.database.exists()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "storage/../../outside", "run/lensmith.lock"])
def test_a_member_that_leads_out_of_the_data_directory_is_refused(elsewhere, tmp_path, name):
    class Named(archive.Writer):
        pass

    (tmp_path / "x").write_bytes(b"x")
    with (tmp_path / "evil.tar").open("wb") as out:
        writer = Named(out)
        writer.add(name, tmp_path / "x")
        writer.close()
    with pytest.raises(CannotStart, match="no backup"):
        restore(elsewhere, tmp_path / "evil.tar")
    assert not (tmp_path / "outside").exists()


def test_a_data_directory_that_is_used_or_not_empty_is_left_alone(house, elsewhere, tmp_path):
    backup(house.settings, tmp_path / "b.tar")
    with pytest.raises(CannotStart, match="not empty"):
        restore(house.settings, tmp_path / "b.tar")
    data.make(elsewhere.layout)
    with data.locked(elsewhere.layout), pytest.raises(CannotStart, match="already runs"):
        restore(elsewhere, tmp_path / "b.tar")


def test_an_object_that_a_row_names_and_that_is_gone_is_told(house, tmp_path):
    house.storage.delete_below(adapter_prefix("default", house.adapter))
    with pytest.raises(CannotStart, match=house.adapter):
        backup(house.settings, tmp_path / "b.tar")
    assert not list(tmp_path.glob("b.tar*"))


def test_a_file_of_an_adapter_that_is_gone_or_changed_is_told(house, tmp_path):
    file = house.settings.layout.storage / adapter_prefix("default", house.adapter) / "adapter_model.safetensors"
    file.write_bytes(b"another")
    with pytest.raises(CannotStart, match=r"adapter_model\.safetensors is named by a row"):
        backup(house.settings, tmp_path / "b.tar")
    file.unlink()
    with pytest.raises(CannotStart, match=r"adapter_model\.safetensors is named by a row"):
        backup(house.settings, tmp_path / "b.tar")


def test_what_is_removed_while_a_backup_is_taken_is_in_it(house, elsewhere, tmp_path, monkeypatch):
    """Jobs that save remove their older checkpoints all the time: before the snapshot, after it, while files are copied."""
    before = objects(house.settings)
    write = archive.Writer.add

    def add(self, name, path):
        house.storage.delete_below("default/jobs")
        write(self, name, path)

    monkeypatch.setattr(archive.Writer, "add", add)
    backup(house.settings, tmp_path / "b.tar")
    restore(elsewhere, tmp_path / "b.tar")
    assert objects(elsewhere) == before
    assert not (house.settings.layout.run / "backup").exists()


def test_what_comes_between_the_first_look_and_the_snapshot_is_in_it(house, elsewhere, tmp_path, monkeypatch):
    hold, looks = module._hold, []

    def held(storage, folder):
        hold(storage, folder)
        if not looks:
            house.storage.put_bytes("default/datasets/ds_1/report-1.json", b"{}")
            with house.database.write() as session:
                session.get_one(Dataset, "ds_1").report_fence = 1
        looks.append(folder)

    monkeypatch.setattr(module, "_hold", held)
    backup(house.settings, tmp_path / "b.tar")
    restore(elsewhere, tmp_path / "b.tar")
    assert objects(elsewhere) == objects(house.settings)
    assert len(looks) == 2


def test_a_disk_without_links_is_backed_up_as_well(house, elsewhere, tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", Mock(side_effect=PermissionError))
    backup(house.settings, tmp_path / "b.tar")
    restore(elsewhere, tmp_path / "b.tar")
    assert objects(elsewhere) == objects(house.settings)


def test_a_second_backup_at_the_same_time_is_refused(house, tmp_path, monkeypatch):
    verify = archive.verify

    def verified(part):
        with pytest.raises(CannotStart, match="under way"):
            backup(house.settings, tmp_path / "other.tar")
        return verify(part)

    monkeypatch.setattr(archive, "verify", verified)
    backup(house.settings, tmp_path / "b.tar")
    assert [path.name for path in tmp_path.glob("*.tar*")] == ["b.tar"]


def test_a_backup_of_a_newer_version_is_refused(house, elsewhere, tmp_path):
    with house.database.write() as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    backup(house.settings, tmp_path / "b.tar")
    killed = elsewhere.layout.run / "restoring-killed"
    killed.mkdir(parents=True)
    with pytest.raises(CannotStart, match="another version of Lensmith"):
        restore(elsewhere, tmp_path / "b.tar")
    assert not elsewhere.layout.database.exists()
    assert list(elsewhere.layout.run.glob("restoring-*")) == [], "nor is there what a killed restore left"


@pytest.mark.parametrize("elsewhere_too", [{"database_url": "postgresql://x/y"}, {"storage_url": "s3://b/p"}])
def test_what_is_not_embedded_is_left_to_the_tools_that_do_it_better(settings, tmp_path, elsewhere_too):
    with pytest.raises(CannotStart, match="pg_dump"):
        backup(settings.model_copy(update=elsewhere_too), tmp_path / "b.tar")


def test_a_backup_that_is_killed_leaves_no_file_under_its_name(house, tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from core.settings import Settings
from ops import archive, backup
write = archive.Writer.add
def add(self, name, path):
    write(self, name, path)
    print("wrote", flush=True)
archive.Writer.add = add
archive.verify = lambda part: os.kill(os.getpid(), signal.SIGKILL)
backup.backup(Settings(data_dir=Path({str(house.settings.data_dir)!r})), Path({str(tmp_path / "b.tar")!r}))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "b.tar").exists()
    backup(house.settings, tmp_path / "b.tar")
    assert not list(tmp_path.glob("b.tar.*"))


def test_a_store_whose_right_to_write_is_gone_names_and_removes_nothing(house):
    """For every moment at which the right may go."""
    before = objects(house.settings)
    for moment in range(2):
        left = iter(range(moment))

        def check(left=left):
            if next(left, None) is None:
                raise WorkFailed("storage", "fenced", remedy="none")

        guarded = house.storage.guarded(check)
        with pytest.raises(WorkFailed, match="fenced"):
            guarded.put_bytes("default/x", b"x")
        assert list(house.storage.keys("staging")) == []
    with pytest.raises(WorkFailed, match="fenced"):
        house.storage.guarded(check).delete_below("default")
    assert objects(house.settings) == before
    guarded = house.storage.guarded(lambda: None)
    guarded.put_bytes("default/x", b"x")
    assert house.storage.read("default/x") == b"x"


def test_what_a_killed_backup_holds_is_let_go_when_the_service_starts(house):
    folder = house.settings.layout.run / "backup" / "storage"
    folder.mkdir(parents=True)
    (folder / "held").write_bytes(b"x")
    module.forget_killed(house.settings.layout)
    assert not folder.parent.exists()


def test_a_restore_that_was_killed_between_its_two_names_is_done_again(house, elsewhere, tmp_path, monkeypatch):
    backup(house.settings, tmp_path / "b.tar")
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda *_, **__: None)  # nothing is tidied by who is killed
        patched.setattr(type(elsewhere.layout), "database", property(lambda _: tmp_path / "nowhere" / "x.db"))
        with pytest.raises(CannotStart):
            restore(elsewhere, tmp_path / "b.tar")
    assert any(elsewhere.layout.storage.iterdir())
    assert not elsewhere.layout.database.exists()
    restore(elsewhere, tmp_path / "b.tar")
    assert objects(elsewhere) == objects(house.settings)
    assert list(elsewhere.layout.run.glob("restoring-*")) == []
