"""A folder on its way to the server: always the same bytes, and nothing from outside of it."""

import os
import zipfile

import pytest

from ingest.container import Container
from ingest.validate import validate
from lensmith.errors import NotUploadable
from lensmith.folders import zipped
from tests.unit.ingest.conftest import Make


@pytest.fixture
def folder(tmp_path):
    """A clean folder of twenty rows."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    for number in range(20):
        (root / f"images/{number}.png").write_bytes(Make.image(number))
    (root / "train.jsonl").write_bytes(Make.lines(Make.rows(20)))
    return root


def zip_bytes(folder):
    with zipped(folder) as stream:
        return stream.read()


def test_the_same_files_give_the_same_bytes_whenever_they_were_written(folder):
    first = zip_bytes(folder)
    for path in folder.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(0o700)
    assert zip_bytes(folder) == first


def test_the_zip_of_a_folder_is_the_data_set_of_the_folder(folder, tmp_path):
    (tmp_path / "upload").write_bytes(zip_bytes(folder))
    digests = set()
    for path, container in ((folder, Container.FOLDER), (tmp_path / "upload", Container.ZIP)):
        (tmp_path / container).mkdir()
        report = validate(path, container, tmp_path / container)
        assert report.issues == []
        digests.add(report.digest)
    assert len(digests) == 1


def test_names_that_begin_with_a_dot_stay_at_home(folder):
    (folder / ".env").write_text("SECRET=1")
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("x")
    with zipped(folder) as stream, zipfile.ZipFile(stream) as archive:
        names = archive.namelist()
    assert len(names) == 21
    assert not any(name.startswith(".") for name in names)


@pytest.mark.parametrize("what", ["link", "link to a folder", "pipe", "latin-1"])
def test_what_cannot_be_sent_is_said_by_its_name(folder, what):
    path = folder / (os.fsdecode(b"caf\xe9.png") if what == "latin-1" else "odd.png")
    match what:
        case "link":
            path.symlink_to("/etc/passwd")
        case "link to a folder":
            path.symlink_to("/etc")
        case "pipe":
            os.mkfifo(path)
        case _:
            path.write_bytes(b"")
    with pytest.raises(NotUploadable, match=r"odd\.png|caf") as caught, zipped(folder):
        pass
    assert str(caught.value).isprintable()


def test_a_temporary_folder_that_cannot_be_written_is_said(folder, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(NotUploadable, match="cannot be zipped"), zipped(folder):
        pass
