"""The feature cache on disk: whole or not there, shared, within its budget, the least recently used goes first."""

import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from training.features import shard
from training.features.store import FeatureStore


def features(seed, *, dtype=torch.float32, size=1000):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def open_store(root, *, key=None, budget_bytes=10**9):
    return FeatureStore(root, key or {"base": "a"}, budget_bytes=budget_bytes)


def found(store, *names):
    told = []
    return store.find(names, on_damage=told.append), told


def shards(root):
    return sorted(root.glob("*/*.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_put_is_there_for_the_next_job_bit_for_bit(tmp_path, dtype):
    store = open_store(tmp_path)
    store.put("one", features(1, dtype=dtype))
    store.flush()
    again = open_store(tmp_path)
    assert found(again, "one", "other") == ({"one"}, [])
    assert torch.equal(again["one"], features(1, dtype=dtype))


def test_another_base_or_processor_finds_nothing(tmp_path):
    store = open_store(tmp_path, key={"base": "a"})
    store.put("one", features(1))
    store.flush()
    assert found(open_store(tmp_path, key={"base": "b"}), "one") == (set(), [])


def test_a_view_of_a_batch_does_not_keep_the_batch(tmp_path):
    store = open_store(tmp_path)
    store.put("one", features(1, size=100_000)[:10])
    store.flush()
    assert shards(tmp_path)[0].stat().st_size < 1000


@pytest.mark.parametrize("where", ["header", "data", "cut", "empty"])
def test_a_damaged_shard_is_removed_and_told_of_and_the_others_stay(tmp_path, where):
    store = open_store(tmp_path)
    for name in ("one", "two"):
        store.put(name, features(1))
        store.flush()
    damaged = next(path for path in shards(tmp_path) if "two" in shard.Shard(path).names)
    raw = bytearray(damaged.read_bytes())
    if where == "header":
        raw[4:12] = b"\xff" * 8
    if where == "data":
        raw[-1] ^= 1
    kept = {"cut": raw[:-100], "empty": b""}.get(where, raw)
    damaged.write_bytes(kept)
    names, told = found(open_store(tmp_path), "one", "two")
    assert names == {"one"}
    assert len(told) == 1
    assert damaged.name in told[0]
    assert not damaged.exists()


def test_a_shard_that_could_not_be_written_leaves_nothing(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    store.put("one", features(1))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        store.flush()
    assert list(tmp_path.glob("*/*")) == [next(tmp_path.glob("*/key.json"))]


def test_large_amounts_go_to_disk_before_all_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr("training.features.store.SHARD_BYTES", 10_000)
    store = open_store(tmp_path)
    for number in range(6):
        store.put(str(number), features(number))  # 4,000 bytes each
    assert len(shards(tmp_path)) == 2
    store.flush()
    assert found(open_store(tmp_path), *map(str, range(6)))[0] == set(map(str, range(6)))


def aged(root, name, seed, age_s):
    store = open_store(root, key={"base": name})
    store.put("one", features(seed))
    store.flush()
    (path,) = (root / store._folder).glob("*.safetensors")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_the_least_recently_used_goes_first_and_what_a_job_uses_counts_as_used(tmp_path):
    oldest, old = aged(tmp_path, "a", 1, 300), aged(tmp_path, "b", 2, 200)
    user = open_store(tmp_path, key={"base": "a"}, budget_bytes=10_000)
    found(user, "one")
    newest = aged(tmp_path, "c", 3, 100)
    user.evict()  # three of 4 KB do not fit into 10
    assert oldest.exists()
    assert not old.exists()
    assert newest.exists()


def test_what_is_evicted_while_it_is_used_can_still_be_read(tmp_path):
    aged(tmp_path, "a", 1, 300)
    user = open_store(tmp_path, key={"base": "a"})
    found(user, "one")
    open_store(tmp_path, key={"base": "b"}, budget_bytes=0).evict()
    assert not shards(tmp_path)
    assert torch.equal(user["one"], features(1))


def test_what_a_killed_job_left_is_swept_when_it_is_old(tmp_path):
    store = open_store(tmp_path)
    old, new = (store._folder / f"{shard.PART}{name}" for name in ("old", "new"))
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    store.evict()
    assert not old.exists()
    assert new.exists()


def test_a_shard_that_cannot_be_opened_is_left_where_it_is(tmp_path, monkeypatch):
    """Another job may hold it; too many open files are no damage."""
    store = open_store(tmp_path)
    store.put("one", features(1))
    store.flush()

    def refuse(*_, **__):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(shard, "safe_open", refuse)
    names, told = found(open_store(tmp_path), "one")
    assert (names, len(told)) == (set(), 1)
    assert len(shards(tmp_path)) == 1


def test_a_shard_that_another_job_evicts_at_this_moment_is_no_news(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    store.put("one", features(1))
    store.flush()

    def gone(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(shard, "safe_open", gone)
    assert found(open_store(tmp_path), "one") == (set(), [])


def test_room_is_made_before_a_shard_is_written(tmp_path, monkeypatch):
    """On a volume of the size of the budget the new shard would not fit beside the old ones."""
    old = aged(tmp_path, "a", 1, 300)
    store = open_store(tmp_path, key={"base": "b"}, budget_bytes=6000)
    store.put("two", features(2))
    was_there, write = [], shard.write
    monkeypatch.setattr(shard, "write", lambda *each: was_there.append(old.exists()) or write(*each))
    store.flush()
    assert was_there == [False]


def test_a_shard_that_another_job_evicts_as_soon_as_it_is_there_can_be_read(tmp_path, monkeypatch):
    """It was opened by its final name once it had that; an eviction in between ended the run."""
    store, rename = open_store(tmp_path), Path.rename

    def rename_and_lose(path, target):
        moved = rename(path, target)
        moved.unlink()
        return moved

    monkeypatch.setattr(Path, "rename", rename_and_lose)
    store.put("one", features(1))
    store.flush()
    assert torch.equal(store["one"], features(1))


def test_a_shard_that_is_evicted_while_it_is_looked_for_is_no_damage(tmp_path, monkeypatch):
    aged(tmp_path, "a", 1, 300)
    (path,) = shards(tmp_path)
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda *args: [*glob(*args), path.with_name("gone.safetensors")])
    assert found(open_store(tmp_path, key={"base": "a"}), "one") == ({"one"}, [])


def test_a_folder_without_a_shard_goes_when_nobody_opened_it_for_long(tmp_path):
    kept = aged(tmp_path, "kept", 1, 7200)
    old, new, waiting = (open_store(tmp_path, key={"base": name}) for name in ("old", "new", "waiting"))
    for folder in (kept.parent, old._folder, waiting._folder):
        os.utime(folder / "key.json", (time.time() - 7200,) * 2)
    (waiting._folder / f"{shard.PART}new").write_bytes(b"half")
    open_store(tmp_path, key={"base": "kept"}).evict()
    os.utime(kept.parent / "key.json", (time.time() - 7200,) * 2)
    new.evict()
    assert {path.parent for path in tmp_path.glob("*/key.json")} == {kept.parent, new._folder, waiting._folder}
    assert not old._folder.exists()


def test_a_job_whose_folder_was_swept_writes_it_anew(tmp_path):
    store = open_store(tmp_path)
    shutil.rmtree(store._folder)
    store.put("one", features(1))
    store.flush()
    assert found(open_store(tmp_path), "one") == ({"one"}, [])
    assert (store._folder / "key.json").exists()
