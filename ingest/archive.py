"""Zips and bare JSONL, read member by member: nothing is unpacked to disk, no name of a user becomes a path."""

import io
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from ingest.files import WithFiles, too_large
from ingest.issues import Finding, ImageRefused, Rule, SourceFault, shown
from ingest.limits import MIB, Limits
from ingest.lines import count_lines, read_rows
from ingest.members import DIRECTORY_ERRORS, is_content, member_name
from ingest.names import Names
from ingest.sources import RowsOnly, SourceRow

_READ_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)
_AGAIN = "Make the zip again and upload it again."


class JsonlSource(RowsOnly):
    """A bare JSONL file."""

    def __init__(self, stream: IO[bytes], limits: Limits) -> None:
        super().__init__("a bare JSONL file")
        self._stream = stream
        self._limits = limits

    def count_rows(self) -> int:
        """Return the number of lines."""
        self._stream.seek(0)
        return count_lines(self._stream)

    def rows(self) -> Iterator[SourceRow]:
        """Yield every row."""
        self._stream.seek(0)
        yield from read_rows(self._stream, None, self._limits)


class ZipSource(WithFiles):
    """A zip of JSONL files and images. The API checked its directory; sizes are counted again while inflating."""

    def __init__(self, stream: IO[bytes], limits: Limits) -> None:
        self._inflated_bytes = 0
        try:
            self._zip = zipfile.ZipFile(stream)
        except DIRECTORY_ERRORS as error:
            raise SourceFault(_damaged("the zip's table of contents cannot be read")) from error
        self._members = {member_name(info): info for info in self._zip.infolist() if is_content(info)}
        super().__init__(Names(self._members, kind="zip"), limits)

    def read(self, name: str) -> bytes:
        """Return a member's bytes, at most `max_image_bytes`."""
        limit = self._limits.max_image_bytes
        try:
            with self._zip.open(self._members[name]) as stream:
                data = stream.read(limit + 1)
        except _READ_ERRORS as error:
            raise ImageRefused(_damaged(f"{shown(name)} cannot be read from the zip", Rule.CORRUPT_IMAGE)) from error
        self._count(len(data))
        if len(data) > limit:
            raise too_large(name, self._limits)
        return data

    def open_file(self, name: str) -> io.BufferedReader:
        """Open a member; what it inflates to is counted."""
        try:
            member = self._zip.open(self._members[name])
        except _READ_ERRORS as error:
            raise SourceFault(_damaged("the file cannot be read from the zip"), file=name) from error
        return io.BufferedReader(_Counted(member, name, self._limits), buffer_size=MIB)

    def _count(self, num_bytes: int) -> None:
        self._inflated_bytes += num_bytes
        if self._inflated_bytes > self._limits.max_total_bytes:
            raise SourceFault(_too_much(self._limits))


class _Counted(io.RawIOBase):
    """A member as raw bytes, counted while they inflate, because declared sizes lie."""

    def __init__(self, member: IO[bytes], name: str, limits: Limits) -> None:
        self._member = member
        self._name = name
        self._limits = limits
        self._read_bytes = 0

    def readable(self) -> bool:
        """Return that this can be read."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed wants Buffer (3.12)
        """Inflate into a buffer."""
        try:
            data = self._member.read(len(buffer))
        except _READ_ERRORS as error:
            raise SourceFault(_damaged("the file cannot be read from the zip"), file=self._name) from error
        self._read_bytes += len(data)
        if self._read_bytes > self._limits.max_total_bytes:
            raise SourceFault(_too_much(self._limits), file=self._name)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the member."""
        self._member.close()
        super().close()


def _damaged(what: str, rule: Rule = Rule.UNREADABLE) -> Finding:
    return Finding(rule=rule, message=f"{what}: it is cut off or damaged.", fix=_AGAIN)


def _too_much(limits: Limits) -> Finding:
    return Finding(
        rule=Rule.TOO_MUCH_DATA,
        message=f"the data set unpacks to more than {limits.max_total_bytes:,} bytes.",
        fix="Split it into several data sets.",
    )
