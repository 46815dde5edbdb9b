"""What kind of file an upload is, from its first bytes; called at the POST, so it is quick and unpacks nothing."""

import codecs
import os
from enum import StrEnum
from pathlib import PurePath
from typing import IO

from core.errors import Invalid
from ingest.issues import SourceFault
from ingest.limits import Limits
from ingest.members import check_zip
from ingest.tar import GZIP_MAGIC, check_head, inflated_head, looks_like_tar

FIELD = "#/file"
_TAKEN = (
    "Taken are: a zip, tar or tar.gz of images and *.jsonl files, a bare JSONL file (one JSON object per line, UTF-8), "
    "or Parquet."
)
_HEAD_BYTES = 64 * 1024
_JSONL_SUFFIXES = {".jsonl", ".ndjson", ".jsonlines"}
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"PK\x07\x08", "a zip split over several files"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"RIFF", "a WEBP image or another RIFF file"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3", "an SQLite database"),
    (codecs.BOM_UTF16_LE, "text in UTF-16 (save it as UTF-8)"),
    (codecs.BOM_UTF16_BE, "text in UTF-16 (save it as UTF-8)"),
)


class Container(StrEnum):
    """The kinds of file that a data set may come in; a folder only where the checks run beside it."""

    ZIP = "zip"
    TAR = "tar"
    JSONL = "jsonl"
    PARQUET = "parquet"
    FOLDER = "folder"


def sniff(stream: IO[bytes], filename: str | None = None, *, limits: Limits | None = None) -> Container:
    """Return the kind of an uploaded file and leave the stream at its start.

    A zip's table of contents is checked here too (names, links, encryption, sizes as declared), and a tar's first
    header: it has no table, and may be packed, so the rest of it is read by validation.

    Args:
        stream: the upload; it must be seekable.
        filename: what the client called it; only its suffix is looked at, and only for text.
        limits: bounds other than the default.

    Raises:
        Invalid: it is something else, or an archive that cannot be taken; the sentence says what it is and what is taken.
    """
    stream.seek(0)
    head = stream.read(_HEAD_BYTES)
    if not head:
        raise _refused("The file is empty.")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        check_zip(stream, limits or Limits())
        container = Container.ZIP
    elif head.startswith(b"PAR1"):
        _check_parquet_end(stream)
        container = Container.PARQUET
    elif head.startswith(GZIP_MAGIC) or looks_like_tar(head):
        _check_tar(head)
        container = Container.TAR
    else:
        _check_text(head, filename)
        container = Container.JSONL
    stream.seek(0)
    return container


def _check_parquet_end(stream: IO[bytes]) -> None:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 4))
    if size < 12 or stream.read(4) != b"PAR1":
        raise _refused("The Parquet file is cut off: its footer is missing. Upload it again.")


def _check_tar(head: bytes) -> None:
    if head.startswith(GZIP_MAGIC):
        inflated = inflated_head(head)
        if inflated is None:
            raise _refused("The gzip file is cut off or damaged. Make it again, or upload it again.")
        if not looks_like_tar(inflated):
            raise _refused("The file is a gzip file that holds no tar. Unpack it, and upload what is in it.")
        head = inflated
    try:
        check_head(head)
    except SourceFault as fault:
        message, fix = fault.finding.message, fault.finding.fix
        raise Invalid.field(FIELD, f"{message[:1].upper()}{message[1:]} {fix}") from fault


def _check_text(head: bytes, filename: str | None) -> None:
    what = _other_kind(head)
    text = head.removeprefix(codecs.BOM_UTF8)
    if what is None and b"\x00" in text:
        what = "The file is binary, or text that is not UTF-8."
    if what is None:
        what = _wrong_text(text.lstrip(), filename)
    if what is not None:
        raise _refused(what)


def _other_kind(head: bytes) -> str | None:
    return next((f"The file is {name}." for magic, name in _OTHERS if head.startswith(magic)), None)


def _wrong_text(text: bytes, filename: str | None) -> str | None:
    if not text:
        return "The file holds only white space."
    if text.startswith(b"["):
        return "The file is a JSON array; write one object per line, without the brackets and commas around."
    if text.startswith(b"<"):
        return "The file is HTML or XML; perhaps a page was downloaded instead of the data."
    has_suffix = filename is not None and PurePath(filename).suffix.lower() in _JSONL_SUFFIXES
    if text.startswith(b"{") or has_suffix:
        return None
    return 'The file is not known: its first line does not start with "{".'


def _refused(what: str) -> Invalid:
    return Invalid.field(FIELD, f"{what} {_TAKEN}")
