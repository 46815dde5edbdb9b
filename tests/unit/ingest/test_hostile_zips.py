import io
import stat
import struct
import zipfile
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import Invalid
from ingest.container import Container, sniff
from ingest.issues import Rule
from ingest.limits import Limits
from ingest.options import Options

ROW = b'{"image": "a.png", "caption": "x"}\n'


def _refusal(data: bytes, **limits) -> str:
    with pytest.raises(Invalid) as caught:
        sniff(io.BytesIO(data), "data.zip", limits=Limits(**limits))
    return caught.value.detail


def _zip_of(info: zipfile.ZipInfo | str, data: bytes = b"x", *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("train.jsonl", ROW)
        archive.writestr(info, data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../evil.png", "leaves the folder"),
        ("images/../../evil.png", "leaves the folder"),
        ("/etc/cron.d/evil", "absolute"),
        ("C:evil.png", "drive letter"),
        ("images\\evil.png", "backslash"),
    ],
)
def test_a_zip_with_unsafe_names_is_refused_and_the_name_is_said(name, says):
    detail = _refusal(_zip_of(name))
    assert says in detail
    assert name.replace("\\", "\\") in detail


def test_a_zip_with_a_nul_in_a_name_is_refused():
    data = _zip_of("imageszzevil.png").replace(b"imageszzevil.png", b"images\x00zevil.png")
    assert "NUL" in _refusal(data)


def test_a_zip_with_a_link_is_refused():
    info = zipfile.ZipInfo("link.png")
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "link" in _refusal(_zip_of(info, b"/etc/passwd"))


def test_an_encrypted_zip_is_refused():
    data = bytearray(_zip_of("a.png"))
    at = data.rfind(b"PK\x01\x02")
    data[at + 8] |= 1
    assert "encrypted" in _refusal(bytes(data))


@pytest.mark.parametrize("name", ["more.zip", "deep/images.tar.gz", "x.7Z"])
def test_a_zip_with_an_archive_inside_is_refused(name):
    assert "another archive" in _refusal(_zip_of(name))


def test_a_zip_packed_with_another_method_is_refused():
    assert "deflate" in _refusal(_zip_of("a.png", method=zipfile.ZIP_LZMA))


def test_a_zip_with_two_files_of_one_name_is_refused():
    with pytest.warns(UserWarning, match="Duplicate"):
        data = _zip_of("train.jsonl")
    assert "two files named" in _refusal(data)


def test_a_zip_without_rows_is_refused(make):
    assert "no *.jsonl" in _refusal(make.zip({"a.png": b"x"}))
    assert "no *.jsonl" in _refusal(make.zip({"__MACOSX/._train.jsonl": b"x", "a.png": b"x"}))
    assert "no *.jsonl" in _refusal(make.zip({}))


def test_a_zip_with_too_many_files_is_refused(make):
    data = make.zip({f"{i}.jsonl": b"" for i in range(11)})
    assert "more than 10 files" in _refusal(data, max_members=10)
    assert sniff(io.BytesIO(data), limits=Limits(max_members=11)) is Container.ZIP


def test_a_zip_with_a_huge_table_of_contents_is_refused(make):
    assert "table of contents" in _refusal(make.good_zip(), max_directory_bytes=100)


def test_a_zip_bomb_is_refused_by_its_ratio_and_by_its_size():
    data = _zip_of("zeros.png", bytes(80 * 1024 * 1024))
    assert len(data) < 100_000
    assert "times its size" in _refusal(data)
    assert "unpacks to" in _refusal(data, max_total_bytes=1024 * 1024)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_zip_is_refused(make, keep):
    data = make.good_zip()
    assert "cut off or damaged" in _refusal(data[: int(len(data) * keep)])


def test_a_zip_whose_end_points_nowhere_is_refused(make):
    data = bytearray(make.good_zip())
    end = data.rfind(b"PK\x05\x06")
    struct.pack_into("<L", data, end + 12, 0xFFFFFF00)
    assert "damaged" in _refusal(bytes(data))


def test_a_zip64_is_taken(make):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("train.jsonl", "w", force_zip64=True) as member:
        member.write(ROW)
    assert sniff(io.BytesIO(buffer.getvalue())) is Container.ZIP


def test_a_zip64_end_record_is_followed_when_entries_are_counted(monkeypatch, make):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 5)  # the standard library's own switch to ZIP64
    data = make.zip({f"{i}.jsonl": b"" for i in range(11)})
    assert b"PK\x06\x06" in data
    assert sniff(io.BytesIO(data)) is Container.ZIP
    assert "more than 10 files" in _refusal(data, max_members=10)


def test_a_file_that_lies_about_its_size_never_inflates_beyond_what_it_declared(make, check):
    data = bytearray(make.zip({"train.jsonl": ROW * 12, "a.png": bytes(50 * 1024 * 1024)}))
    at = data.rfind(b"PK\x01\x02")
    struct.pack_into("<L", data, at + 24, 10)
    report = check(bytes(data))
    assert {(issue.row, issue.rule) for issue in report.issues if issue.severity == "error"} == {
        (row, Rule.CORRUPT_IMAGE) for row in range(1, 13)
    }


def test_inflated_bytes_are_counted_against_the_limit_when_the_directory_is_not_believed(make, tmp_path):
    from ingest.validate import validate

    path = tmp_path / "bomb.zip"
    path.write_bytes(make.zip({"train.jsonl": ROW * 200_000}))
    report = validate(path, Container.ZIP, tmp_path, Options(limits=Limits(max_total_bytes=1024 * 1024)))
    assert report.counts.by_rule[Rule.TOO_MUCH_DATA] == 1
    assert 0 < report.rows.read < 40_000


def test_a_damaged_row_file_inside_a_zip_is_an_issue_and_not_a_crash(make, check):
    data = bytearray(make.zip({"train.jsonl": ROW * 5000}))
    data[60:64] = b"\xff\xff\xff\xff"
    report = check(bytes(data))
    assert [issue.rule for issue in report.issues if issue.severity == "error"][-1] in (
        Rule.UNREADABLE,
        Rule.JSON_SYNTAX,
    )
    assert report.digest is None


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_zip_with_any_bytes_changed_is_taken_or_refused_but_never_crashes(make, data):
    changed = bytearray(make.good_zip(3))
    for _ in range(data.draw(st.integers(1, 8))):
        changed[data.draw(st.integers(4, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with suppress(Invalid):
        assert sniff(io.BytesIO(bytes(changed))) is Container.ZIP
