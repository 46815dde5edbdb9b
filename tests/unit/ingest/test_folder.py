"""A folder is read like the zip of it, and nothing outside of it is ever read."""

import os

import pytest

from ingest.container import Container
from ingest.issues import Rule
from ingest.limits import Limits
from ingest.options import Options
from ingest.validate import validate


@pytest.fixture
def folder(make, tmp_path):
    """A clean folder of twenty rows."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    for number in range(20):
        (root / f"images/{number}.png").write_bytes(make.image(number))
    (root / "train.jsonl").write_bytes(make.lines(make.rows(20)))
    return root


@pytest.fixture
def check_folder(tmp_path):
    """Return a function that validates a folder."""

    def run(root, **limits):
        out = tmp_path / "out-of-folder"
        out.mkdir(exist_ok=True)
        return validate(root, Container.FOLDER, out, Options(limits=Limits(**limits)))

    return run


def the_error(report):
    assert (report.num_errors, report.digest) == (1, None)
    return report.refusal


def test_a_clean_folder_has_the_digest_of_its_zip(folder, check_folder, make, check):
    report = check_folder(folder)
    assert (report.container, report.issues) == (Container.FOLDER, [])
    assert report.digest == check(make.good_zip(20)).digest


def test_faults_of_a_folder_are_found_at_their_row_and_file(folder, check_folder, make):
    rows = [{"image": "images/0.PNG", "caption": "x"}, {"image": "../data/images/0.png", "caption": "x"}]
    (folder / "sub").mkdir()
    (folder / "sub/more.jsonl").write_bytes(make.lines(rows))
    report = check_folder(folder)
    assert [(issue.file, issue.row, issue.rule) for issue in report.issues] == [
        ("sub/more.jsonl", 1, Rule.MISSING_IMAGE),
        ("sub/more.jsonl", 2, Rule.MISSING_IMAGE),
    ]
    assert "is not in the folder" in report.refusal.message
    assert "images/0.png" in report.refusal.fix


@pytest.mark.parametrize("target", ["outside.png", "data/images/0.png", "outside", "nowhere"])
def test_a_link_is_refused_wherever_it_leads(folder, check_folder, make, tmp_path, target):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside.png").write_bytes(make.image())
    (folder / "images/link.png").symlink_to(tmp_path / target)
    issue = the_error(check_folder(folder))
    assert issue.rule is Rule.UNSAFE_MEMBER
    assert '"images/link.png"' in issue.message


def test_a_file_that_became_a_link_after_the_look_is_not_followed(folder, make, tmp_path):
    from ingest.folder import FolderSource
    from ingest.issues import ImageRefused

    source = FolderSource(folder, Limits())
    (tmp_path / "secret").write_bytes(make.image())
    (folder / "images/0.png").unlink()
    (folder / "images/0.png").symlink_to(tmp_path / "secret")
    with pytest.raises(ImageRefused, match="cannot be read"):
        source.read("images/0.png")


def test_a_pipe_is_refused_and_nobody_waits_for_it(folder, check_folder):
    os.mkfifo(folder / "images/pipe.png")
    assert "special file" in the_error(check_folder(folder)).message


def test_names_that_begin_with_a_dot_are_passed_over(folder, check_folder):
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints/train-checkpoint.jsonl").write_bytes((folder / "train.jsonl").read_bytes())
    (folder / ".env").symlink_to("/etc/passwd")
    assert check_folder(folder).issues == []


def test_a_folder_without_rows_and_one_of_too_many_files_are_refused(folder, check_folder):
    assert "more than 20 files" in the_error(check_folder(folder, max_members=20)).message
    (folder / "train.jsonl").unlink()
    assert "no *.jsonl" in the_error(check_folder(folder)).message


def test_a_name_that_is_no_utf8_is_refused_and_shown(folder, check_folder):
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    issue = the_error(check_folder(folder))
    assert "not UTF-8" in issue.message
    assert issue.message.isprintable()


def test_a_file_that_is_too_large_is_refused_at_its_row(folder, check_folder):
    (folder / "images/7.png").write_bytes(bytes(5000))
    issue = the_error(check_folder(folder, max_image_bytes=4096))
    assert (issue.rule, issue.row) == (Rule.IMAGE_TOO_LARGE, 8)
