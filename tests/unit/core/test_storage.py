"""The object store: a name always stands for whole, verified bytes."""

import io

import pytest

from core.errors import FailureCode, WorkFailed
from core.storage import Storage
from tests.unit.ingest.elsewhere import serving


class Breaks(io.RawIOBase):
    """A stream that ends in an error, as a lost connection does."""

    def __init__(self):
        self.left = 3

    def readable(self):
        return True

    def read(self, size=-1):
        self.left -= 1
        if self.left == 0:
            raise OSError("connection lost")
        return b"x" * 1000


def test_what_was_stored_is_read_listed_fetched_and_deleted(storage, tmp_path):
    stored = storage.put_bytes("default/a/b", b"hello")
    assert stored.sha256 == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert storage.read("default/a/b") == b"hello"
    assert b"".join(storage.chunks("default/a/b")) == b"hello"
    assert list(storage.keys("default")) == ["default/a/b"]
    assert list(storage.keys("staging")) == [], "it was verified there, and then named"
    storage.fetch("default/a/b", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"hello"
    storage.delete("default/a/b")
    storage.delete("default/a/b")
    assert not storage.has("default/a/b")


def test_an_upload_that_breaks_leaves_no_object_under_its_name(storage):
    with pytest.raises(WorkFailed) as failed:
        storage.put_stream("default/x", Breaks())
    assert failed.value.code is FailureCode.STORAGE
    assert failed.value.retryable
    assert not storage.has("default/x")


def test_bytes_that_read_back_different_are_not_named(storage, monkeypatch):
    monkeypatch.setattr(Storage, "_digest", lambda _self, _key: "0" * 64)
    with pytest.raises(WorkFailed, match="read back differs"):
        storage.put_bytes("default/x", b"hello")
    assert not storage.has("default/x")


def test_an_object_that_is_not_there_is_a_storage_failure_that_names_it(storage, tmp_path):
    for read in (storage.read, lambda key: list(storage.chunks(key)), lambda key: storage.fetch(key, tmp_path / "t")):
        with pytest.raises(WorkFailed, match="default/nothing"):
            read("default/nothing")


def test_storing_again_under_the_same_name_replaces_it_whole(storage):
    storage.put_bytes("default/x", b"first")
    storage.put_bytes("default/x", b"second")
    assert storage.read("default/x") == b"second"


def test_the_probe_leaves_nothing(storage):
    storage.check()
    assert list(storage.keys("")) == []


def test_who_writes_to_a_fetched_copy_does_not_reach_the_object(storage, tmp_path):
    storage.put_bytes("default/x", b"hello")
    storage.fetch("default/x", tmp_path / "copy")
    with (tmp_path / "copy").open("r+b") as copy:
        copy.write(b"HELLO")
    assert storage.read("default/x") == b"hello"


def test_what_failed_to_be_stored_leaves_nothing_behind(storage, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(Storage, "_digest", lambda _self, _key: "0" * 64)
        with pytest.raises(WorkFailed):
            storage.put_bytes("default/x", b"hello")
    assert list(storage.keys("")) == []


def test_the_start_of_an_object_is_all_of_a_shorter_one(storage):
    storage.put_bytes("a", b"abcdef")
    assert storage.read_start("a", 3) == b"abc"
    assert storage.read_start("a", 100) == b"abcdef"
    with pytest.raises(WorkFailed, match="not in the store"):
        storage.read_start("b", 3)


def test_an_opened_object_is_read_where_one_looks(storage):
    storage.put_bytes("a/b", bytes(range(256)))
    with storage.open("a/b") as stream:
        assert stream.seek(-6, 2) == 250
        assert stream.read() == bytes(range(250, 256))
        stream.seek(10)
        assert (stream.read(3), stream.tell()) == (b"\n\x0b\x0c", 13)


def test_an_object_that_is_not_there_cannot_be_opened(storage):
    with pytest.raises(WorkFailed, match="a/b is not in the store"):
        storage.open("a/b")


def test_a_draft_that_is_discarded_leaves_nothing_behind(storage):
    draft = storage.draft("default/x")
    draft.write(b"half of it")
    storage.discard(draft)
    storage.discard(draft)
    assert list(storage.keys("")) == []


def test_a_draft_has_no_name_before_it_is_finished(storage):
    draft = storage.draft("default/x")
    for piece in (b"hel", b"lo"):
        draft.write(piece)
    assert not storage.has("default/x")
    stored = storage.finish(draft)
    assert (stored, storage.read("default/x")) == (storage.put_bytes("default/x", b"hello"), b"hello")
    assert list(storage.keys("")) == ["default/x"]


def test_pieces_that_end_in_an_error_leave_nothing_behind_and_the_error_comes_through(storage):
    def pieces():
        yield b"x"
        raise LookupError

    with pytest.raises(LookupError):
        storage.put_chunks("default/x", pieces())
    assert list(storage.keys("")) == []


def test_what_lies_below_a_prefix_is_deleted_and_nothing_beside_it(storage):
    for key in ("default/a/1", "default/a/2/3", "default/ab"):
        storage.put_bytes(key, b"x")
    storage.delete_below("default/a")
    assert list(storage.keys("")) == ["default/ab"]


def test_an_object_that_takes_longer_than_a_request_is_asked_for_again_from_the_place_reached(monkeypatch):
    """The length of a request can be said, and what the environment says of the client stays true beside it."""
    total, headers = 40, {"ETag": '"1"', "Last-Modified": "Mon, 02 Jan 2006 15:04:05 GMT"}
    with serving(tls=False) as s3:
        asked = []

        def drip(handler):
            asked.append(handler.headers.get("Range"))
            start = int(asked[-1].removeprefix("bytes=").partition("-")[0]) if asked[-1] else 0
            handler.send_response(206 if start else 200)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(total - start))
            if start:
                handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            handler.end_headers()
            for _ in range(start, total):
                s3.released.wait(0.02)
                handler.wfile.write(b"x")

        s3.answers["/bucket/a"] = drip
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.port}")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        storage = Storage.from_url("s3://bucket", request_s=0.5)
        assert b"".join(storage.chunks("a")) == b"x" * total
        assert len(asked) > 1
        asked.clear()
        assert len(Storage.from_url("s3://bucket", request_s=60).read("a")) == total
        assert asked == [None]
