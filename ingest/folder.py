"""A folder of JSONL files and images, for checks before anything is uploaded."""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ingest.issues import Finding, ImageRefused, Rule, SourceFault, shown
from ingest.limits import Limits
from ingest.lines import count_lines, read_rows
from ingest.names import Names, is_jsonl
from ingest.sources import SourceRow


class FolderSource:
    """A folder and what lies below it. Names that begin with a dot are passed over; a link is never followed."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self._files: dict[str, str] = {}  # NFC, and as the file system has it
        for name in _walk(root):
            self._take(name)
        if not any(map(is_jsonl, self._files)):
            fix = "Add one with a row per example, beside the images it names."
            raise SourceFault(Finding(rule=Rule.NO_ROWS, message="the folder holds no *.jsonl file.", fix=fix))
        self._names = Names(self._files, kind="folder")

    def count_rows(self) -> int:
        """Return the number of lines in all JSONL files."""
        total = 0
        for name in self._names.jsonl():
            with self._open(name) as stream:
                total += count_lines(stream)
        return total

    def rows(self) -> Iterator[SourceRow]:
        """Yield every row of every JSONL file, in the order of their names."""
        for name in self._names.jsonl():
            with self._open(name) as stream:
                yield from read_rows(stream, name, self._limits)

    def find(self, path: str, *, beside: str | None) -> str | None:
        """Return the file that a path means."""
        return self._names.find(path, beside=beside)

    def missing(self, path: str) -> Finding:
        """Return that there is no such file, and the nearest name."""
        return self._names.missing(path)

    def read(self, name: str) -> bytes:
        """Return a file's bytes, at most `max_image_bytes`."""
        limit = self._limits.max_image_bytes
        try:
            with self._open(name) as stream:
                data = stream.read(limit + 1)
        except SourceFault as fault:
            refusal = Finding(rule=Rule.CORRUPT_IMAGE, message=fault.finding.message, fix=fault.finding.fix)
            raise ImageRefused(refusal) from fault
        if len(data) > limit:
            message = f"the file {shown(name)} has more than {limit:,} bytes."
            fix = "Save the image smaller, or as JPEG."
            raise ImageRefused(Finding(rule=Rule.IMAGE_TOO_LARGE, message=message, fix=fix))
        return data

    def files(self) -> Iterator[str]:
        """Yield the names of all files that hold no rows."""
        return self._names.files()

    def _take(self, raw: str) -> None:
        if not _is_text(raw):
            message = f"the folder holds the name {shown(raw)}, which is not UTF-8."
            raise SourceFault(Finding(rule=Rule.UNSAFE_MEMBER, message=message, fix="Rename the file."))
        name = unicodedata.normalize("NFC", raw)
        if name in self._files:
            message = f"the folder holds two files named {shown(name)}, which differ only in how Unicode writes them."
            raise SourceFault(Finding(rule=Rule.UNSAFE_MEMBER, message=message, fix="Give each its own name."))
        self._files[name] = raw
        if len(self._files) > self._limits.max_members:
            message = f"the folder holds more than {self._limits.max_members:,} files."
            fix = "Make several data sets of it, or Parquet."
            raise SourceFault(Finding(rule=Rule.UNSAFE_MEMBER, message=message, fix=fix))

    def _open(self, name: str) -> IO[bytes]:
        try:
            descriptor = os.open(self._root / self._files[name], os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise SourceFault(_unreadable(name, error)) from error
        return os.fdopen(descriptor, "rb")


def _walk(root: Path) -> Iterator[str]:
    """Yield the names of all files below a folder, relative to it."""
    folders = [root]
    while folders:
        folder = folders.pop()
        for entry in _entries(root, folder):
            name = os.path.relpath(entry.path, root)
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield name
            else:
                message = f"the folder holds a link or a special file: {shown(name)}."
                raise SourceFault(Finding(rule=Rule.UNSAFE_MEMBER, message=message, fix="Put the file itself in."))


def _entries(root: Path, folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise SourceFault(_unreadable(os.path.relpath(folder, root), error)) from error


def _unreadable(name: str, error: OSError) -> Finding:
    message = f"{shown(name)} cannot be read: {error.strerror}."
    return Finding(rule=Rule.UNREADABLE, message=message, fix="Look at who may read it.")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
