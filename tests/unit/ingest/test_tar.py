"""Tars: read as they lie or inflated once, and refused wherever they cannot be trusted."""

import gzip
import io
import tarfile
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import Invalid
from ingest.container import Container, sniff
from ingest.issues import Rule
from ingest.limits import MIB, Limits
from ingest.validate import validate

ROWS = b'{"image": "a.png", "caption": "x"}\n' * 12
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def tar_of(*members, form=tarfile.PAX_FORMAT, encoding="utf-8") -> bytes:
    """Return a tar of `(name or TarInfo, bytes)`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding=encoding) as archive:
        for info, data in members:
            made = tarfile.TarInfo(info) if isinstance(info, str) else info
            if made.isreg():
                made.size = len(data)
            archive.addfile(made, io.BytesIO(data))
    return buffer.getvalue()


def good(make, *, count=20, folder="", **how) -> bytes:
    images = [(f"{folder}images/{i}.png", make.image(i)) for i in range(count)]
    return tar_of((f"{folder}train.jsonl", make.lines(make.rows(count))), *images, **how)


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def the_error(report):
    assert (report.num_errors, report.digest) == (1, None)
    return report.refusal


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("folder", ["", "./", "digits/"])
def test_a_clean_tar_has_no_issue_and_the_digest_of_the_same_zip(make, check, tmp_path, form, pack, folder):
    report = check(pack(good(make, folder=folder, form=FORMATS[form])))
    assert (report.container, report.issues) == (Container.TAR, [])
    assert report.digest == check(make.good_zip(20), out="zip").digest
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "images.pack",
        "images.parquet",
        "records.parquet",
        "report.json",
        "sizes.json",
    ]


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_long_names_and_names_beyond_ascii_are_found(make, check, form):
    names = [f"{'ordner' * 30}/größe{i}.png" for i in range(12)]
    rows = make.lines([{"image": name, "caption": name[-9:]} for name in names])
    data = tar_of(("a.jsonl", rows), *((name, make.image(i)) for i, name in enumerate(names)), form=FORMATS[form])
    assert check(data).issues == []


def test_names_in_latin_1_are_found(make, check):
    rows = make.lines([{"image": f"größe{i}.png", "caption": "x"} for i in range(12)])
    members = [(f"größe{i}.png", make.image(i)) for i in range(12)]
    assert check(tar_of(("a.jsonl", rows), *members, form=tarfile.GNU_FORMAT, encoding="latin-1")).issues == []


def test_folders_and_what_macos_puts_beside_are_no_files(make, check):
    folder, extra = special("images", tarfile.DIRTYPE), ("._train.jsonl", b"\x00\x05\x16\x07")
    images = [(f"images/{i}.png", make.image(i)) for i in range(20)]
    assert check(tar_of((folder, b""), ("train.jsonl", make.lines(make.rows(20))), extra, *images)).issues == []


def test_faults_in_a_tar_are_found_at_their_row_and_file(make, check):
    rows = make.lines([*make.rows(20), {"image": "images/99.png", "caption": "x"}, b"{"])
    images = [(f"images/{i}.png", make.image(i)) for i in range(20)]
    report = check(gzip.compress(tar_of(*images, ("train.jsonl", rows), ("fat.png", bytes(11 * MIB)))))
    errors = [(issue.row, issue.file, issue.rule) for issue in report.issues if issue.severity == "error"]
    assert errors == [(21, "train.jsonl", Rule.MISSING_IMAGE), (22, "train.jsonl", Rule.JSON_SYNTAX)]
    assert "is not in the tar" in report.refusal.message


def test_an_image_over_the_limit_is_refused_without_being_read(make, check):
    issue = the_error(check(tar_of(("a.jsonl", ROWS[: len(ROWS) // 12]), ("a.png", bytes(5000))), max_image_bytes=4096))
    assert issue.rule is Rule.IMAGE_TOO_LARGE


HOSTILE = {
    "a parent": ("../evil.png", "leaves the folder"),
    "a parent within": ("images/../../evil.png", "leaves the folder"),
    "an absolute name": ("/etc/cron.d/evil", "is absolute"),
    "a drive letter": ("C:evil.png", "drive letter"),
    "a backslash": ("images\\evil.png", "backslash"),
    "a symbolic link": (special("link.png", tarfile.SYMTYPE), "a link or a special file"),
    "a hard link": (special("link.png", tarfile.LNKTYPE), "a link or a special file"),
    "a device": (special("sda", tarfile.BLKTYPE), "a link or a special file"),
    "a terminal": (special("tty", tarfile.CHRTYPE), "a link or a special file"),
    "a pipe": (special("pipe", tarfile.FIFOTYPE), "a link or a special file"),
    "a sparse file": (special("sparse", tarfile.GNUTYPE_SPARSE), "a link or a special file"),
    "an unknown kind": (special("what", b"Z"), "a link or a special file"),
    "a zip inside": ("more.zip", "another archive"),
    "a tar inside": ("deep/images.tar.gz", "another archive"),
    "a name twice": ("train.jsonl", "two files named"),
    "a name twice, written otherwise": ("./train.jsonl", "two files named"),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_hostile_member_is_refused_by_its_name(check, tmp_path, what, pack):
    info, says = HOSTILE[what]
    issue = the_error(check(pack(tar_of(("train.jsonl", ROWS), (info, b"")))))
    assert issue.rule is Rule.UNSAFE_MEMBER
    assert says in issue.message
    assert issue.fix.endswith(".")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images.pack", "report.json"]


@pytest.mark.parametrize("what", [what for what in HOSTILE if "twice" not in what and "inside" not in what])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_hostile_first_member_is_refused_at_the_post(what, pack):
    info, says = HOSTILE[what]
    with pytest.raises(Invalid, match=says) as caught:
        sniff(io.BytesIO(pack(tar_of((info, b""), ("train.jsonl", ROWS)))))
    assert caught.value.errors[0].pointer == "#/file"


def pax(record: bytes, *, size: int | None = None, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """Return a header with this content, which may be no PAX at all."""
    info = tarfile.TarInfo("PaxHeader")
    info.type, info.size = kind, len(record) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + record.ljust(-(-len(record) // 512) * 512, b"\x00")


BROKEN_HEADERS = {
    "a NUL in a long name": (pax(b"a.png\x00/../b\x00", kind=tarfile.GNUTYPE_LONGNAME), "NUL"),
    "a parent in a long name": (pax(b"../evil.png\x00", kind=tarfile.GNUTYPE_LONGNAME), "leaves the folder"),
    "a parent in a PAX path": (pax(b"20 path=../evil.png\n"), "leaves the folder"),
    "a NUL in a PAX path": (pax(b"16 path=a\x00b.png\n"), "NUL"),
    "a sparse file in PAX": (pax(b"22 GNU.sparse.major=1\n"), "a link or a special file"),
    "a size that is no number": (pax(b"11 size=-1\n"), "size of"),
    "a size beyond the file": (pax(b"18 size=999999999\n"), 'ends within "a.png"'),
    "a record without an end": (pax(b"99 path=a\n"), "PAX header"),
    "a record of length zero": (pax(b"0 path=a\n"), "PAX header"),
    "a record without a length": (pax(b"path=a\n"), "PAX header"),
    "a PAX header of gigabytes": (pax(b"", size=8**11 - 1), "header of 8,589,934,591 bytes"),
    "a global header of gigabytes": (pax(b"", size=8**11 - 1, kind=tarfile.XGLTYPE), "ends within a file"),
    "a long name of gigabytes": (pax(b"", size=2**70, kind=tarfile.GNUTYPE_LONGNAME), "header of"),
    "a long link of gigabytes": (pax(b"", size=2**70, kind=tarfile.GNUTYPE_LONGLINK), "ends within a file"),
}


@pytest.mark.parametrize("what", BROKEN_HEADERS)
def test_a_hostile_header_is_refused_and_never_taken_into_memory(check, what):
    header, says = BROKEN_HEADERS[what]
    tracemalloc.start()
    issue = the_error(check(header + tar_of(("a.png", b"x"), ("train.jsonl", ROWS)), container=Container.TAR))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert says in issue.message
    assert peak_bytes < 32 * MIB


def test_a_chain_of_long_names_does_not_end_the_process(check):
    """`tarfile` calls itself for each, so a few thousand of them were a RecursionError."""
    chain = pax(b"a.png\x00", kind=tarfile.GNUTYPE_LONGNAME) * 5000
    report = check(chain + tar_of(("x", b""), ("train.jsonl", ROWS)), max_members=100)
    assert "more than 100 files" in the_error(report).message


def test_bounds_on_files_names_and_bytes_are_kept(check, make):
    data = good(make, count=10)
    assert "more than 10 files" in the_error(check(data, out="files", max_members=10)).message
    assert "names in the tar" in the_error(check(data, out="names", max_directory_bytes=50)).message
    assert "unpacks to more than" in the_error(check(data, out="bytes", max_total_bytes=500)).message
    assert check(data, out="fits", max_members=11).digest is not None


def test_a_bomb_is_refused_while_it_inflates(check, tmp_path):
    bomb = gzip.compress(tar_of(("train.jsonl", ROWS), ("zeros.png", bytes(80 * MIB))))
    assert len(bomb) < 100_000
    issue = the_error(check(bomb, out="ratio"))
    assert (issue.rule, "times its size" in issue.message) == (Rule.TOO_MUCH_DATA, True)
    assert "more than 1,048,576 bytes" in the_error(check(bomb, out="size", max_total_bytes=MIB)).message


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_tar_cut_off_is_an_issue_wherever_it_was_cut(make, check, pack, keep):
    data = pack(good(make, form=tarfile.USTAR_FORMAT).rstrip(b"\x00") + bytes(1024))
    issue = the_error(check(data[: int(len(data) * keep) - 1023 * (pack is bytes)], container=Container.TAR))
    assert (issue.rule, "cut off or damaged" in issue.message) == (Rule.UNREADABLE, True)


def test_a_tar_cut_off_between_two_files_is_not_taken_for_a_smaller_one(make, check):
    whole = tar_of(("train.jsonl", make.lines([{"messages": []}])), ("z.png", b"x" * 512), form=tarfile.USTAR_FORMAT)
    assert the_error(check(whole[:1024], container=Container.TAR)).rule is Rule.UNREADABLE


def test_two_joined_tars_are_refused_for_the_second_would_be_lost(make, check):
    assert "behind its end" in the_error(check(good(make) * 2)).message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x1f\x8b\x08\x00rest", "holds no tar"),
        (b"\x1f\x8b\xffrest of it", "cut off or damaged"),
        (gzip.compress(b'{"image": "a.png"}\n' * 99), "holds no tar"),
        (gzip.compress(tar_of(("a.jsonl", ROWS)))[:30], "holds no tar"),
        (tar_of(("a.jsonl", ROWS))[:300], "cut off or damaged"),
        (tar_of(("a.jsonl", ROWS)).replace(b"a.jsonl", b"b.jsonl", 1), "cut off or damaged"),
    ],
    ids=["no deflate", "no gzip", "gzipped rows", "a cut gzip", "a cut header", "a wrong checksum"],
)
def test_what_cannot_be_taken_is_refused_at_the_post(data, says):
    with pytest.raises(Invalid) as caught:
        sniff(io.BytesIO(data), "data.tar.gz")
    assert says in caught.value.detail


def test_a_gzip_header_without_end_is_given_up_after_a_few_bytes():
    """`gzip` looks for the end of the name byte by byte, so 2 GB without one would hold a thread of the API."""

    class Counted(io.BytesIO):
        read_bytes = 0

        def read(self, size=-1):
            data = super().read(size)
            Counted.read_bytes += len(data)
            return data

    with pytest.raises(Invalid, match="holds no tar"):
        sniff(Counted(b"\x1f\x8b\x08\x08" + b"n" * 10 * MIB))
    assert Counted.read_bytes < MIB


def test_a_tar_in_the_old_form_without_magic_is_known_by_its_checksum(make):
    info = tarfile.TarInfo("train.jsonl")
    info.size = len(ROWS)
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[257:265] = bytes(8)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\x00 " % sum(block)
    assert sniff(io.BytesIO(bytes(block) + ROWS.ljust(512, b"\x00") + bytes(1024))) is Container.TAR


def test_a_tar_of_rows_alone_needs_them(check, make):
    assert "no *.jsonl" in the_error(check(tar_of(("a.png", make.image())))).message


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_tar_with_any_bytes_changed_is_taken_or_refused_but_never_crashes(make, tmp_path_factory, data):
    form = data.draw(st.sampled_from(sorted(FORMATS)))
    changed = bytearray(tar_of((f"{'ä' * 60}/b.png", make.image()), ("a.jsonl", ROWS), form=FORMATS[form]))
    for _ in range(data.draw(st.integers(1, 8))):
        changed[data.draw(st.integers(0, 2047))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("changed")
    (folder / "upload").write_bytes(bytes(changed))
    with suppress(Invalid):
        sniff(io.BytesIO(bytes(changed)), limits=Limits())
    report = validate(folder / "upload", Container.TAR, folder)
    assert report.num_issues > 0
