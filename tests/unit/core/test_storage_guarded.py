"""A guarded view of a store: who may not write any more names nothing, wherever that turns out."""

import os
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from core.storage import Storage


class Lost(Exception):
    """What a worker raises whose lease is gone."""


class Lease:
    """A check that holds for so many calls and raises from then on."""

    def __init__(self, holds: int) -> None:
        self.holds = holds
        self.asked = 0

    def check(self) -> None:
        self.asked += 1
        if self.asked > self.holds:
            raise Lost


@pytest.fixture
def folder(tmp_path):
    """What a child leaves: files, and a manifest that is not the last by name."""
    made = tmp_path / "made"
    made.mkdir()
    for name in ("a.bin", "manifest.json", "z.bin"):
        (made / name).write_bytes(name.encode())
    return made


def lost_at_every_call(act):
    """Act under leases that hold for 0, 1, 2, … calls, until one lasts to the end; yield after each that did not."""
    for holds in count():
        lease = Lease(holds)
        try:
            act(lease.check)
        except Lost:
            yield holds
        else:
            assert lease.asked == holds
            return


def test_a_lease_that_is_lost_at_any_moment_names_no_object_and_leaves_nothing(storage):
    def act(check):
        storage.guarded(check).put_chunks("default/x", [b"one", b"two"])

    for _ in lost_at_every_call(act):
        assert list(storage.keys("")) == []
    assert storage.read("default/x") == b"onetwo"


def test_the_last_question_comes_after_the_bytes_are_read_back_and_right_before_the_name(storage, monkeypatch):
    happened = []
    digest = Storage._digest
    monkeypatch.setattr(Storage, "_digest", lambda self, key: happened.append("read back") or digest(self, key))
    storage.guarded(lambda: happened.append("asked")).put_bytes("default/x", b"hello")
    assert happened[-2:] == ["read back", "asked"]


def test_an_object_that_was_there_stays_as_it_was_when_the_lease_is_lost(storage):
    storage.put_bytes("default/x", b"first")

    for _ in lost_at_every_call(lambda check: storage.guarded(check).put_bytes("default/x", b"second")):
        assert storage.read("default/x") == b"first"
    assert storage.read("default/x") == b"second"


def test_a_folder_has_no_manifest_before_all_that_it_names_is_there(storage, folder):
    losses = []
    for holds in lost_at_every_call(lambda check: storage.guarded(check).put_folder("default/a", folder)):
        assert "default/a/manifest.json" not in set(storage.keys("default"))
        assert list(storage.keys("staging")) == []
        storage.delete_below("default")
        losses.append(holds)
    assert len(losses) == 3 * 4  # a draft, its bytes, its end, its name
    assert sorted(storage.keys("")) == ["default/a/a.bin", "default/a/manifest.json", "default/a/z.bin"]
    assert storage.read("default/a/z.bin") == b"z.bin"


def test_nothing_is_deleted_without_the_lease(storage):
    for key in ("default/a/1", "default/a/2"):
        storage.put_bytes(key, b"x")
    with pytest.raises(Lost):
        storage.guarded(Lease(0).check).delete("default/a/1")
    with pytest.raises(Lost):
        storage.guarded(Lease(1).check).delete_below("default/a")
    assert len(list(storage.keys("default/a"))) == 1


def test_a_draft_is_given_up_without_the_lease(storage):
    lease = Lease(2)
    view = storage.guarded(lease.check)
    draft = view.draft("default/x")
    draft.write(b"half")
    view.discard(draft)
    assert list(storage.keys("")) == []


def test_the_store_behind_a_view_is_not_guarded(storage):
    storage.guarded(Lease(0).check)
    assert storage.put_bytes("default/x", b"hello").size_bytes == 5


def test_objects_are_listed_with_their_size_and_age(storage, tmp_path):
    storage.put_bytes("default/a/1", b"hello")
    storage.put_bytes("other/2", b"")
    then = datetime.now(UTC) - timedelta(hours=3)
    os.utime(tmp_path / "objects/default/a/1", (then.timestamp(), then.timestamp()))
    (entry,) = storage.entries("default")
    assert (entry.key, entry.size_bytes) == ("default/a/1", 5)
    assert abs(entry.last_modified - then) < timedelta(seconds=1)


def test_bytes_are_on_the_disk_before_they_get_their_name_and_the_name_before_it_is_told(
    storage, tmp_path, monkeypatch
):
    """object_store writes no file through (apache/arrow-rs-object-store#661): after a power cut an object could be
    empty under its name while the row that names it was there."""
    root, synced = tmp_path / "objects", []
    fsync = os.fsync

    def seen(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((os.path.relpath(path, root), (root / "default/a/x").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    storage.put_bytes("default/a/x", b"hello")
    (temporary, was_named), *folders = synced
    assert (temporary.startswith("staging/"), was_named) == (True, False)
    assert folders == [("default/a", True), ("default", True), (".", True)]
