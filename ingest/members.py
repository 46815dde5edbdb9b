"""The table of contents of a zip: read without inflating anything, and refused when it cannot be trusted."""

import stat
import struct
import unicodedata
import zipfile
from collections.abc import Iterator
from typing import IO

from core.errors import Invalid
from ingest.issues import shown
from ingest.limits import Limits
from ingest.names import is_jsonl, is_litter, is_nested_archive, unsafe

FIELD = "#/file"
# What `zipfile` raises over a damaged or a hostile directory.
DIRECTORY_ERRORS = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error, EOFError, OSError)
_END, _END_64, _LOCATOR_64, _ENTRY = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"
_END_BYTES, _END_64_BYTES, _LOCATOR_64_BYTES, _ENTRY_BYTES = 22, 56, 20, 46
_ENCRYPTED_FLAGS = 0x1 | 0x40
_UTF8_FLAG = 0x800


def check_zip(stream: IO[bytes], limits: Limits) -> None:
    """Check a zip's table of contents.

    Raises:
        Invalid: it cannot be read, or names a file that must not be unpacked, or declares too much.
    """
    try:
        _check_directory_size(stream, limits)
        with zipfile.ZipFile(stream) as archive:
            infos = archive.infolist()
    except DIRECTORY_ERRORS as error:
        raise _refused(
            "The zip is cut off or damaged: its table of contents cannot be read. Make it again, or upload it again."
        ) from error
    packed_bytes = stream.seek(0, 2)
    for info in infos:
        _check_member(info)
    _check_together(infos, packed_bytes, limits)


def member_name(info: zipfile.ZipInfo) -> str:
    """Return the name of a member in NFC.

    macOS writes UTF-8 names without saying so, and `zipfile` then reads them as code page 437.
    """
    name = info.filename
    if not info.flag_bits & _UTF8_FLAG and not name.isascii():
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = info.filename
    return unicodedata.normalize("NFC", name)


def is_content(info: zipfile.ZipInfo) -> bool:
    """Return whether a member is a file of the user, not a folder and not what macOS puts beside it."""
    return not info.is_dir() and not is_litter(info.filename)


def _check_member(info: zipfile.ZipInfo) -> None:
    name = info.orig_filename  # `filename` is cut at the first NUL
    if reason := unsafe(name):
        raise _refused(
            f"The zip holds the name {shown(name)}, which {reason}. Zip the folder again with plain relative names."
        )
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(f"The zip holds a link or a special file: {shown(name)}. Put the file itself in.")
    if info.flag_bits & _ENCRYPTED_FLAGS:
        raise _refused(f"The zip is encrypted ({shown(name)}). Zip it without a password.")
    if is_content(info) and is_nested_archive(name):
        raise _refused(f"The zip holds another archive: {shown(name)}. Put its files in directly.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(f"The zip packs {shown(name)} with a method other than deflate. Zip it with deflate or stored.")


def _check_together(infos: list[zipfile.ZipInfo], packed_bytes: int, limits: Limits) -> None:
    files = [info for info in infos if is_content(info)]
    total = sum(info.file_size for info in infos)
    if total > limits.max_total_bytes:
        raise _refused(f"The zip unpacks to {total:,} bytes; at most {limits.max_total_bytes:,} are taken.")
    if total > limits.ratio_floor_bytes and total > limits.max_ratio * packed_bytes:
        raise _refused(
            f"The zip unpacks to {total / packed_bytes:,.0f} times its size; at most {limits.max_ratio:,.0f} times are taken."
        )
    names: set[str] = set()
    for name in map(member_name, files):
        if name in names:
            raise _refused(f"The zip holds two files named {shown(name)}. Give each its own name.")
        names.add(name)
    if not any(map(is_jsonl, names)):
        raise _refused("The zip holds no *.jsonl file. Add one with a row per example, beside the images it names.")


def _check_directory_size(stream: IO[bytes], limits: Limits) -> None:
    """Bound the directory before `zipfile` makes an object of each entry; the count it declares may lie."""
    start, size = _directory(stream)
    if size > limits.max_directory_bytes:
        raise _refused(
            f"The zip's table of contents takes {size:,} bytes; at most {limits.max_directory_bytes:,} are taken."
        )
    stream.seek(start)
    for count, _ in enumerate(_entries(stream.read(size)), start=1):
        if count > limits.max_members:
            raise _refused(
                f"The zip holds more than {limits.max_members:,} files. Upload several data sets, or Parquet."
            )


def _directory(stream: IO[bytes]) -> tuple[int, int]:
    """Return where the central directory starts and its size, by the rules that `zipfile` follows."""
    length = stream.seek(0, 2)
    stream.seek(max(0, length - _END_BYTES - 0xFFFF - _LOCATOR_64_BYTES - _END_64_BYTES))
    base, tail = stream.tell(), stream.read()
    at = tail.rfind(_END)
    if at < 0 or at + _END_BYTES > len(tail):
        raise zipfile.BadZipFile("no end record")
    size: int = struct.unpack_from("<L", tail, at + 12)[0]
    end = base + at
    wide = at - _LOCATOR_64_BYTES - _END_64_BYTES
    if wide >= 0 and tail.startswith(_LOCATOR_64, at - _LOCATOR_64_BYTES) and tail.startswith(_END_64, wide):
        size = struct.unpack_from("<Q", tail, wide + 40)[0]
        end = base + wide
    if size > end:
        raise zipfile.BadZipFile("the directory is larger than the file")
    return end - size, size


def _entries(directory: bytes) -> Iterator[int]:
    at = 0
    while directory.startswith(_ENTRY, at) and at + _ENTRY_BYTES <= len(directory):
        yield at
        at += _ENTRY_BYTES + sum(struct.unpack_from("<3H", directory, at + 28))


def _refused(what: str) -> Invalid:
    return Invalid.field(FIELD, what)
