"""A folder of things that can be made again, kept below a size: what was not used for the longest time goes first."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core.ids import Prefix

_LOOK_AFTER_RATIO = 1 / 16  # of the bound: so much may be added before the folder is looked at
_KEPT_RATIO = 3 / 4  # of the bound: so much is left, so that not every addition takes something away
KEPT_S = 60.0  # whoever was given an entry may still be opening it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    path: Path
    used_at: float
    size_bytes: int


class CacheFolder:
    """Bounds a folder whose entries, files or folders, are each made under a temporary name (`….req_<id>`) and renamed.

    Several processes may share it; each looks when it has itself added enough.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._added_bytes = 0
        self._lock = threading.Lock()

    def use(self, path: Path) -> bool:
        """Tell whether an entry is there, and note that it is used."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def add(self, path: Path) -> None:
        """Count an entry that was just added, and remove old ones when it is time."""
        with self._lock:
            self._added_bytes += _size(path)
            if self._added_bytes < _LOOK_AFTER_RATIO * self._max_bytes:
                return
            self._added_bytes = 0
            self._trim()

    def _trim(self) -> None:
        entries = sorted(self._entries(), key=lambda entry: entry.used_at)
        total = sum(entry.size_bytes for entry in entries)
        if total <= self._max_bytes:
            return
        newest = time.time() - KEPT_S
        for entry in entries:
            if total <= _KEPT_RATIO * self._max_bytes or entry.used_at > newest:
                return
            _remove(entry.path)
            total -= entry.size_bytes

    def _entries(self) -> Iterator[_Entry]:
        for path in self.folder.iterdir():
            if f".{Prefix.REQUEST}" in path.name:
                continue  # still being made
            with suppress(FileNotFoundError):  # another process removed it
                yield _Entry(path=path, used_at=path.stat().st_mtime, size_bytes=_size(path))


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
