"""A folder of JSONL files and images, for checks before anything is uploaded."""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ingest.files import WithFiles, too_large
from ingest.issues import Finding, ImageRefused, Rule, SourceFault, shown
from ingest.limits import Limits
from ingest.names import Names, is_jsonl


class FolderSource(WithFiles):
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
        super().__init__(Names(self._files, kind="folder"), limits)

    def read(self, name: str) -> bytes:
        """Return a file's bytes, at most `max_image_bytes`."""
        limit = self._limits.max_image_bytes
        try:
            with self.open_file(name) as stream:
                data = stream.read(limit + 1)
        except SourceFault as fault:
            refusal = Finding(rule=Rule.CORRUPT_IMAGE, message=fault.finding.message, fix=fault.finding.fix)
            raise ImageRefused(refusal) from fault
        if len(data) > limit:
            raise too_large(name, self._limits)
        return data

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

    def open_file(self, name: str) -> IO[bytes]:
        """Open a file; a link is never followed."""
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
