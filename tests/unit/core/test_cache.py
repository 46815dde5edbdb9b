"""A cache stays below its bound, and what was used last stays longest."""

import os
import time

import pytest

from core.cache import KEPT_S, CacheFolder

KIB = 1024


@pytest.fixture
def cache(tmp_path):
    return CacheFolder(tmp_path, max_bytes=32 * KIB)


def put(cache, name, *, age_s, is_folder=False):
    path = cache.folder / name
    if is_folder:
        path.mkdir()
        (path / "content").write_bytes(bytes(4 * KIB))
    else:
        path.write_bytes(bytes(4 * KIB))
    then = time.time() - age_s
    os.utime(path, (then, then))
    cache.add(path)
    return path


def names(cache):
    return sorted(path.name for path in cache.folder.iterdir())


def test_below_the_bound_nothing_is_removed(cache):
    for number in range(8):
        put(cache, str(number), age_s=1000 - number)
    assert names(cache) == [str(number) for number in range(8)]


@pytest.mark.parametrize("is_folder", [False, True], ids=["files", "folders"])
def test_above_it_the_oldest_go_down_to_three_quarters(cache, is_folder):
    for number in range(9):
        put(cache, str(number), age_s=1000 - number, is_folder=is_folder)
    assert names(cache) == ["3", "4", "5", "6", "7", "8"]


def test_what_is_used_again_is_not_old(cache):
    first = put(cache, "0", age_s=5000)
    assert cache.use(first)
    for number in range(1, 9):
        put(cache, str(number), age_s=1000 - number)
    assert "0" in names(cache)
    assert not cache.use(cache.folder / "1"), "it was removed"


def test_what_was_just_handed_out_is_kept_whatever_the_bound(cache):
    for number in range(20):
        put(cache, str(number), age_s=KEPT_S / 2)
    assert len(names(cache)) == 20


def test_the_folder_is_not_looked_at_for_every_small_entry(tmp_path):
    cache = CacheFolder(tmp_path, max_bytes=1024 * KIB)
    for number in range(300):
        put(cache, str(number), age_s=1000)
    assert 192 <= len(names(cache)) <= 272, "between three quarters, and the bound and a sixteenth"
