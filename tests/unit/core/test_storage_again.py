"""What a store fails at once is done again, because hours of training may hang on one object; nothing else is."""

import obstore
import pytest
from obstore.exceptions import GenericError

from core import storage_errors
from core.errors import WorkFailed
from worker.attempt import LeaseLost


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(b"hello")
    return path


@pytest.fixture
def fails(monkeypatch):
    """Let a function of obstore fail so many times; returns the list of its failures."""
    monkeypatch.setattr(storage_errors, "_PAUSES_S", (0.0, 0.0, 0.0))

    def failing(name, times):
        real, failures = getattr(obstore, name), []

        def call(*asked, **options):
            if len(failures) < times:
                failures.append(asked)
                raise GenericError("connection refused")
            return real(*asked, **options)

        monkeypatch.setattr(obstore, name, call)
        return failures

    return failing


@pytest.mark.parametrize("name", ["open_writer", "rename", "get"])
def test_a_file_is_stored_again(storage, source, fails, name):
    failures = fails(name, 3)
    storage.put_file("default/x", source)
    assert len(failures) == 3
    assert storage.read("default/x") == b"hello"
    assert list(storage.keys("")) == ["default/x"]


@pytest.mark.parametrize("name", ["get", "head"])
def test_an_object_is_looked_for_and_fetched_again(storage, source, tmp_path, fails, name):
    storage.put_file("default/x", source)
    failures = fails(name, 3)
    assert storage.has("default/x")
    storage.fetch("default/x", tmp_path / "copy")
    assert len(failures) == 3
    assert (tmp_path / "copy").read_bytes() == b"hello"


def test_what_fails_four_times_has_failed(storage, source, fails):
    failures = fails("rename", 4)
    with pytest.raises(WorkFailed, match="default/x could not be stored"):
        storage.put_file("default/x", source)
    assert len(failures) == 4


def test_what_was_tried_for_long_is_not_tried_again(storage, source, fails, monkeypatch):
    monkeypatch.setattr(storage_errors, "_QUICK_S", -1.0)
    failures = fails("rename", 2)
    with pytest.raises(WorkFailed):
        storage.put_file("default/x", source)
    assert len(failures) == 1


def test_an_object_that_is_not_there_is_asked_for_once(storage, tmp_path, monkeypatch):
    asked, real = [], obstore.get
    monkeypatch.setattr(obstore, "get", lambda *key: asked.append(key) or real(*key))
    with pytest.raises(WorkFailed, match="is not in the store"):
        storage.fetch("default/none", tmp_path / "copy")
    assert len(asked) == 1


def test_a_lease_that_is_gone_is_not_asked_again(storage, source):
    asked = []

    def hold():
        asked.append(1)
        raise LeaseLost

    with pytest.raises(LeaseLost):
        storage.guarded(hold).put_file("default/x", source)
    assert len(asked) == 1
