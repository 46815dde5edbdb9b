"""A control group with a limit on memory, of either version; whoever may make one is root."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_UNLIMITED = {"memory.limit_in_bytes": "-1", "memory.max": "max"}


class Group:
    """One group: who joins it takes its children along."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_first = (folder / "memory.limit_in_bytes").exists()

    def join(self) -> None:
        """Move this process into the group."""
        (self._folder / "cgroup.procs").write_text(str(os.getpid()))

    def limit(self, size_bytes: int | None) -> None:
        """Let the group hold so much; None: as much as there is."""
        name = "memory.limit_in_bytes" if self._is_first else "memory.max"
        (self._folder / name).write_text(_UNLIMITED[name] if size_bytes is None else str(size_bytes))

    def drop_files(self) -> None:
        """Give back the pages of files, which would be counted as used."""
        if self._is_first:
            (self._folder / "memory.force_empty").write_text("0")
        else:
            with suppress(BlockingIOError):  # it cannot take back as much as was asked
                (self._folder / "memory.reclaim").write_text(str(2**40))

    @property
    def used_bytes(self) -> int:
        """Return what the group holds."""
        return int((self._folder / ("memory.usage_in_bytes" if self._is_first else "memory.current")).read_text())

    @property
    def kills(self) -> int:
        """Return how many of its processes were killed for want of memory."""
        lines = (self._folder / ("memory.oom_control" if self._is_first else "memory.events")).read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


@contextmanager
def made(name: str) -> Iterator[Path]:
    """Make a group, give its folder, and remove it again when everyone has left.

    Raises:
        OSError: This machine lets nobody make one.
    """
    root = _ROOT / "memory" if (_ROOT / "memory").is_dir() else _ROOT
    folder = root / name
    folder.mkdir()
    try:
        yield folder
    finally:
        folder.rmdir()
