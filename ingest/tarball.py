"""Rows and images of a tar, plain or gzipped.

A plain tar is read where it lies: the headers say where each file starts. A gzip can only be read from its start, so it
is inflated once into one temporary file without a name, and that is a plain tar again.
"""

import gzip
import io
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ingest.files import WithFiles, too_large
from ingest.issues import Finding, Rule, SourceFault
from ingest.limits import MIB, Limits
from ingest.names import Names
from ingest.tar import GZIP_MAGIC, Member, damaged, read_members, too_much

_INFLATE_ERRORS = (OSError, EOFError, zlib.error)


class TarSource(WithFiles):
    """A plain tar of JSONL files and images."""

    def __init__(self, stream: IO[bytes], limits: Limits) -> None:
        self._stream = stream
        self._members = read_members(stream, limits)
        super().__init__(Names(self._members, kind="tar"), limits)

    def read(self, name: str) -> bytes:
        """Return a member's bytes, at most `max_image_bytes`."""
        member, limit = self._members[name], self._limits.max_image_bytes
        if member.size_bytes > limit:
            raise too_large(name, self._limits)
        self._stream.seek(member.start)
        return self._stream.read(member.size_bytes)

    def open_file(self, name: str) -> io.BufferedReader:
        """Open a member where it lies."""
        return io.BufferedReader(_Part(self._stream, self._members[name]), buffer_size=MIB)


@contextmanager
def plain(stream: IO[bytes], scratch: Path, limits: Limits) -> Iterator[IO[bytes]]:
    """Yield a tar as it can be read anywhere: itself, or what a gzip inflates to in a temporary file of `scratch`.

    Raises:
        SourceFault: the gzip is cut off or damaged, or inflates to too much.
    """
    if stream.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
        yield stream
        return
    with tempfile.TemporaryFile(dir=scratch) as unpacked:
        for chunk in _inflated(stream, limits):
            unpacked.write(chunk)
        yield unpacked


class _Part(io.RawIOBase):
    """The bytes of one member. Images are read between its reads, so each read seeks first."""

    def __init__(self, stream: IO[bytes], member: Member) -> None:
        self._stream = stream
        self._at = member.start
        self._end = member.start + member.size_bytes

    def readable(self) -> bool:
        """Return that this can be read."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed wants Buffer (3.12)
        """Read into a buffer."""
        self._stream.seek(self._at)
        data = self._stream.read(min(len(buffer), self._end - self._at))
        self._at += len(data)
        buffer[: len(data)] = data
        return len(data)


def _inflated(stream: IO[bytes], limits: Limits) -> Iterator[bytes]:
    packed_bytes = stream.seek(0, 2)
    stream.seek(0)
    total = 0
    with gzip.GzipFile(fileobj=stream) as packed:
        while chunk := _read(packed):
            total += len(chunk)
            if total > limits.max_total_bytes:
                raise too_much(limits)
            if total > limits.ratio_floor_bytes and total > limits.max_ratio * packed_bytes:
                raise _bomb(limits)
            yield chunk


def _read(packed: gzip.GzipFile) -> bytes:
    try:
        return packed.read(MIB)
    except _INFLATE_ERRORS as error:
        raise damaged("the gzip around the tar cannot be read") from error


def _bomb(limits: Limits) -> SourceFault:
    message = f"the gzip inflates to more than {limits.max_ratio:,.0f} times its size."
    fix = "Take out what is empty or repeated, or upload a plain tar."
    return SourceFault(Finding(rule=Rule.TOO_MUCH_DATA, message=message, fix=fix))
