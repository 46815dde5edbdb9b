"""The SDK and the command send large files in parts, over connections that break and an API that is started anew."""

import hashlib
import os
import socket
import threading

import pytest
import typer
from typer.testing import CliRunner

import lensmith.client
import lensmith.waiting
from core.queue import Queue
from lensmith import ApiError, Client, NotUploadable, Unreachable
from lensmith.commands import add_commands
from models import claims, leases
from models.dataset import Dataset
from models.states import WorkState
from tests.conftest import wait_for
from tests.integration.test_uploads_broken import PART, api  # noqa: F401 - a fixture

SIZE = 2 * PART + 1_000_000


class Line:
    """A TCP proxy: it forwards, and breaks each connection after so many bytes as the test says, while it says any."""

    def __init__(self, port: int) -> None:
        self.breaks: list[int] = []
        self.sent: list[int] = []  # bytes from the client, one number per connection
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._server.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        limit = self.breaks.pop(0) if self.breaks else None
        self.sent.append(0)
        place = len(self.sent) - 1
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            threading.Thread(target=self._copy, args=(server, client), daemon=True).start()
            while data := self._read(client):
                self.sent[place] += len(data)
                if limit is not None and self.sent[place] > limit:
                    break
                server.sendall(data)
            for end in (client, server):
                end.shutdown(socket.SHUT_RDWR)

    def _copy(self, source, target):
        while data := self._read(source):
            try:
                target.sendall(data)
            except OSError:
                return

    def _read(self, source) -> bytes:
        try:
            return source.recv(65536)
        except OSError:
            return b""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lensmith.waiting, "BACKOFF_S", 0.01)
    monkeypatch.setattr(lensmith.waiting, "MAX_BACKOFF_S", 0.1)
    monkeypatch.setattr(lensmith.client, "PARTS_FROM_BYTES", PART)


@pytest.fixture
def file(tmp_path):
    """A JSONL of three parts; no two of them are the same."""
    line = b'{"question": "Which is number %09d?", "answer": "This."}\n'
    path = tmp_path / "large.jsonl"
    path.write_bytes(b"".join(line % number for number in range(SIZE // len(line % 0))))
    return path


@pytest.fixture
def line(api):  # noqa: F811
    _, there = api()
    made = Line(there.base_url.port)
    yield made
    made.close()


@pytest.fixture
def client(line):
    with Client(f"http://127.0.0.1:{line.port}") as opened:
        yield opened


def sha256_of(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_large_file_goes_in_parts_and_says_how_far_it_is(client, file):
    said = []
    dataset = client.datasets.upload(file, name="Large", on_bad_row="skip", on_progress=lambda *now: said.append(now))
    assert (dataset.name, dataset.sha256, dataset.on_bad_row) == ("Large", sha256_of(file), "skip")
    size = file.stat().st_size
    (upload,) = client.uploads.list()
    assert said == [(upload.id, min(done * PART, size), size) for done in range(4)]
    assert (upload.filename, upload.state, upload.dataset) == ("large.jsonl", "completed", dataset.id)


def test_a_small_file_goes_as_a_form(client, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "Which?", "answer": "This."}\n')
    client.datasets.upload(tmp_path / "a.jsonl")
    assert list(client.uploads.list()) == []


def test_a_large_folder_goes_in_parts_as_well(client, tmp_path):
    (tmp_path / "shots").mkdir()
    (tmp_path / "shots/data.jsonl").write_text('{"image": "a.png", "caption": "noise"}\n')
    (tmp_path / "shots/a.png").write_bytes(os.urandom(PART))
    assert client.datasets.upload(tmp_path / "shots").filename == "shots.zip"
    assert [upload.filename for upload in client.uploads.list()] == ["shots.zip"]


def test_only_the_part_whose_connection_broke_is_sent_again(client, line, file):
    line.breaks = [PART + 5_000_000, 100, 3_000_000]  # in the second part, at once, in the second part again
    dataset = client.datasets.upload(file)
    assert dataset.sha256 == sha256_of(file)
    assert line.breaks == []
    assert sum(line.sent) < SIZE + 5_000_000 + 3_000_000 + 1_000_000


def test_a_connection_that_never_holds_is_unreachable_and_the_upload_can_be_resumed(client, line, file):
    line.breaks = [PART + 5_000_000] + [100] * 50
    with pytest.raises(Unreachable):
        client.datasets.upload(file)
    line.breaks, line.sent = [], []
    (upload,) = client.uploads.list()
    assert [part.number for part in upload.parts] == [1]
    assert client.datasets.upload(file, resume=upload.id).sha256 == sha256_of(file)
    assert sum(line.sent) < SIZE - PART + 1_000_000


def test_an_api_that_is_started_anew_is_waited_for(api, file, monkeypatch):  # noqa: F811
    monkeypatch.setattr(lensmith.waiting, "MAX_FAILURES", 1000)
    process, there = api()

    def restart(_id, done, _size):
        nonlocal process
        if done == PART:
            process.kill()
            process.wait()
            threading.Timer(0.3, api).start()

    with Client(str(there.base_url)) as client:
        assert client.datasets.upload(file, on_progress=restart).sha256 == sha256_of(file)


def test_a_part_that_changed_since_is_sent_again(client, file):
    upload = client.uploads.begin("large.jsonl", file.stat().st_size)
    with file.open("rb") as stream:
        client.uploads.send(upload, stream)
    with file.open("r+b") as stream:
        stream.seek(PART + 100)
        stream.write(b"X")
    assert client.datasets.upload(file, resume=upload.id).sha256 == sha256_of(file)


def test_an_upload_of_another_file_is_not_resumed(client, file):
    upload = client.uploads.begin("other.jsonl", 5)
    with pytest.raises(NotUploadable, match=r"of a file of 5 bytes, and this one has "):
        client.datasets.upload(file, resume=upload.id)
    assert client.uploads.get(upload.id).parts == ()


def test_an_upload_that_was_completed_is_resumed_as_its_data_set(client, file):
    made = client.datasets.upload(file)
    (upload,) = client.uploads.list()
    assert client.datasets.upload(file, resume=upload.id).id == made.id
    assert len(list(client.datasets.list())) == 1


def test_an_upload_that_is_given_up_is_gone(client):
    upload = client.uploads.begin("a.zip", 5)
    client.uploads.delete(upload.id)
    with pytest.raises(ApiError, match="There is no upload"):
        client.uploads.get(upload.id)


@pytest.fixture
def validated(api_database):
    """A worker that finds the next data set good without a look."""

    def claim():
        with api_database.write() as session:
            claimed = claims.claim(session, Queue.CPU, worker_id="w", lease_s=60)
            return claimed and leases.finish(session, claimed, WorkState.SUCCEEDED)

    worker = threading.Thread(target=lambda: wait_for(claim, what="a data set"))
    worker.start()
    yield
    worker.join()


def test_the_command_names_the_upload_and_resumes_it(client, line, file, monkeypatch, api_database, validated):
    monkeypatch.setenv("LENSMITH_URL", f"http://127.0.0.1:{line.port}")
    app = typer.Typer()
    add_commands(app)
    line.breaks = [PART + 5_000_000] + [100] * 50
    broken = CliRunner().invoke(app, ["datasets", "upload", str(file)])
    assert broken.exit_code == 4
    line.breaks = []
    (upload,) = client.uploads.list()
    assert f"--resume {upload.id}" in broken.stderr
    done = CliRunner().invoke(app, ["datasets", "upload", str(file), "--resume", upload.id])
    assert done.exit_code == 0, done.stderr
    with api_database.read() as session:
        dataset = session.get_one(Dataset, client.uploads.get(upload.id).dataset)
    assert dataset.upload_sha256 == sha256_of(file)
