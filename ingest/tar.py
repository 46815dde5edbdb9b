"""The headers of a tar, read one by one within bounds; `tarfile` is trusted with a single block only.

`tarfile`'s own reading of an archive takes a long name or a PAX header of any size into memory, and calls itself for
each of them, so a few hostile blocks end the process.
"""

import tarfile
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from ingest.issues import Finding, Rule, SourceFault, shown
from ingest.limits import MIB, Limits
from ingest.names import is_jsonl, is_litter, is_nested_archive, unsafe

GZIP_MAGIC = b"\x1f\x8b"
MAGIC = b"ustar"
MAGIC_AT = 257
BLOCK_BYTES = 512
_MAX_EXTENSION_BYTES = MIB  # a long name, or a PAX header with attributes of the file system
_SPARSE = "GNU.sparse."
_HEADERS_PER_MEMBER = 4  # a long name, a long link, a PAX header, and its own
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_SKIPPED = (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK)
_AGAIN = "Make the tar again and upload it again."


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a tar: where its bytes lie."""

    start: int
    size_bytes: int


def looks_like_tar(head: bytes) -> bool:
    """Return whether a file that starts so is a tar: by its magic, or in the old form by its checksum."""
    if head[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC:
        return True
    try:
        return tarfile.TarInfo.frombuf(head[:BLOCK_BYTES], "latin-1", "strict") is not None
    except (tarfile.HeaderError, ValueError, OverflowError):
        return False


def inflated_head(head: bytes) -> bytes | None:
    """Return the first block inside a gzip file of which `head` is the start; `None` when it is damaged."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, BLOCK_BYTES)
    except zlib.error:
        return None


def check_head(head: bytes) -> None:
    """Check the first header of a tar, which is all that can be told at once; the rest is read by validation.

    Raises:
        SourceFault: it is damaged, or names a file that cannot be taken.
    """
    header = _parse(head[:BLOCK_BYTES], 0)
    if header is not None and header.type not in (*_PAX, *_SKIPPED, tarfile.GNUTYPE_LONGNAME):
        _check_member(_text(header.name.encode("latin-1")), header.type)


def read_members(stream: IO[bytes], limits: Limits) -> dict[str, Member]:
    """Return the files of a plain tar by name (NFC, without `./`).

    Raises:
        SourceFault: it is cut off or damaged, or holds a name, a link or a number of files that cannot be taken.
    """
    walk = _Walk(stream, limits)
    members: dict[str, Member] = {}
    for raw, member in walk.headers():
        if is_litter(raw):
            continue
        if is_nested_archive(raw):
            raise _refused(f"the tar holds another archive: {shown(raw)}.", "Put its files in directly.")
        name = str(PurePosixPath(unicodedata.normalize("NFC", raw)))
        if name in members:
            raise _refused(f"the tar holds two files named {shown(name)}.", "Give each its own name.")
        members[name] = member
    if not any(map(is_jsonl, members)):
        fix = "Add one with a row per example, beside the images it names."
        raise SourceFault(Finding(rule=Rule.NO_ROWS, message="the tar holds no *.jsonl file.", fix=fix))
    return members


def damaged(what: str, *, file: str | None = None) -> SourceFault:
    """Return the fault of a tar whose bytes cannot be trusted any further."""
    message = f"{what}: it is cut off or damaged."
    return SourceFault(Finding(rule=Rule.UNREADABLE, message=message, fix=_AGAIN), file=file)


class _Walk:
    """One walk over the headers, with what they add up to."""

    def __init__(self, stream: IO[bytes], limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._size = stream.seek(0, 2)
        self._num_headers = 0
        self._num_members = 0
        self._names_bytes = 0
        self._total_bytes = 0

    def headers(self) -> Iterator[tuple[str, Member]]:
        """Yield the name of each file as it is written, and where it lies."""
        at = 0
        extended: dict[str, str] = {}
        while (header := self._header(at)) is not None:
            start = at + BLOCK_BYTES
            at = start + _padded(header.size)
            if header.type in _PAX:
                extended |= _pax(self._extension(header, start))
            elif header.type == tarfile.GNUTYPE_LONGNAME:
                extended["path"] = _text(self._extension(header, start).removesuffix(b"\x00"))
            elif header.type not in _SKIPPED:
                name, size = self._checked(header, extended)
                is_file = header.type in _FILES
                at = start + (_padded(size) if is_file else 0)
                extended = {}
                if is_file:
                    yield name, self._placed(name, start, size)
        self._check_rest(at)

    def _header(self, at: int) -> tarfile.TarInfo | None:
        """Return the header at a place; `None` at the end."""
        self._num_headers += 1
        if self._num_headers > self._limits.max_members * _HEADERS_PER_MEMBER:
            raise self._too_many()
        if at > self._size:  # a size that no file has, at which `seek` would overflow
            raise damaged("the tar ends within a file")
        self._stream.seek(at)
        return _parse(self._stream.read(BLOCK_BYTES), at)

    def _extension(self, header: tarfile.TarInfo, start: int) -> bytes:
        if header.size > _MAX_EXTENSION_BYTES:
            message = f"the tar has a header of {header.size:,} bytes; at most {_MAX_EXTENSION_BYTES:,} are taken."
            raise _refused(message, "Make it without attributes of the file system (tar --no-xattrs --no-acls).")
        self._stream.seek(start)
        data = self._stream.read(header.size)
        if len(data) < header.size:
            raise damaged("the tar ends within a header")
        return data

    def _checked(self, header: tarfile.TarInfo, extended: dict[str, str]) -> tuple[str, int]:
        """Return the name and the size of a member, when it may be taken."""
        name = extended.get("path", _text(header.name.encode("latin-1")))
        self._count(name)
        is_sparse = _SPARSE in extended
        _check_member(name, tarfile.GNUTYPE_SPARSE if is_sparse else header.type)
        size = extended.get("size", str(header.size))
        if not (size.isascii() and size.isdigit() and len(size) < 20):
            raise damaged(f"the size of {shown(name)} in the tar cannot be read")
        return name, int(size)

    def _count(self, name: str) -> None:
        self._num_members += 1
        self._names_bytes += len(name.encode("utf-8", "replace"))
        if self._num_members > self._limits.max_members:
            raise self._too_many()
        if self._names_bytes > self._limits.max_directory_bytes:
            message = f"the names in the tar take more than {self._limits.max_directory_bytes:,} bytes."
            raise _refused(message, "Shorten them, or upload several data sets.")

    def _placed(self, name: str, start: int, size: int) -> Member:
        if start + size > self._size:
            raise damaged(f"the tar ends within {shown(name)}")
        self._total_bytes += size
        if self._total_bytes > self._limits.max_total_bytes:
            raise too_much(self._limits)
        return Member(start, size)

    def _check_rest(self, at: int) -> None:
        """Refuse what lies behind the end: another tar, whose rows would be lost without a word."""
        self._stream.seek(at)
        while chunk := self._stream.read(MIB):
            if chunk.strip(b"\x00"):
                fix = "Join tars with tar --concatenate, or pack the folders into one."
                raise _refused("the tar goes on behind its end, as two joined files do.", fix)

    def _too_many(self) -> SourceFault:
        message = f"the tar holds more than {self._limits.max_members:,} files."
        return _refused(message, "Upload several data sets, or Parquet.")


def too_much(limits: Limits) -> SourceFault:
    """Return the fault of a tar that holds too many bytes."""
    message = f"the data set unpacks to more than {limits.max_total_bytes:,} bytes."
    fix = "Split it into several data sets."
    return SourceFault(Finding(rule=Rule.TOO_MUCH_DATA, message=message, fix=fix))


def _parse(block: bytes, at: int) -> tarfile.TarInfo | None:
    """Return the header in a block; `None` for the block of zeros that ends every tar."""
    if block == bytes(BLOCK_BYTES):
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "latin-1", "strict")
    except (tarfile.HeaderError, ValueError, OverflowError) as error:
        raise damaged(f"the header at byte {at:,} of the tar cannot be read") from error
    if header.size < 0:
        raise damaged(f"the header at byte {at:,} of the tar has a size below zero")
    return header


def _check_member(name: str, kind: bytes) -> None:
    if reason := unsafe(name):
        fix = "Pack the folder again with plain relative names."
        raise _refused(f"the tar holds the name {shown(name)}, which {reason}.", fix)
    if kind not in (*_FILES, tarfile.DIRTYPE):
        fix = "Put the file itself in (tar --dereference --hard-dereference)."
        raise _refused(f"the tar holds a link or a special file: {shown(name)}.", fix)


def _pax(data: bytes) -> dict[str, str]:
    """Return the records of a PAX header that matter to us."""
    records: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            key, value, at = _record(data, at)
            records[key] = value
    except ValueError as error:
        raise damaged("a PAX header of the tar cannot be read") from error
    found = {key: value for key, value in records.items() if key in ("path", "size")}
    is_sparse = any(key.startswith(_SPARSE) for key in records)  # one mark for all: their number has no bound
    return found | ({_SPARSE: ""} if is_sparse else {})


def _record(data: bytes, at: int) -> tuple[str, str, int]:
    """Return key, value and end of the record at a place: `length key=value` and a line feed."""
    space = data.index(b" ", at, at + 20)
    end = at + int(data[at:space])
    key, equals, value = data[space + 1 : end - 1].partition(b"=")
    if end <= space or end > len(data) or not equals:
        raise ValueError("a record without an end or a value")
    return _text(key), _text(value), end


def _text(raw: bytes) -> str:
    """Return a name as UTF-8, or as Latin-1 where it is none."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _refused(message: str, fix: str) -> SourceFault:
    return SourceFault(Finding(rule=Rule.UNSAFE_MEMBER, message=message, fix=fix))
