"""What a folder has to be told so that files and names survive a loss of power."""

import os
from pathlib import Path


def sync_file(path: Path) -> None:
    """Return when the bytes of a file are on the disk."""
    _sync(path, os.O_RDONLY)


def sync_name(path: Path, *, below: Path) -> None:
    """Return when the name of a file is on the disk, and those of the folders that lead to it from `below`."""
    for folder in path.parents:
        _sync(folder, os.O_RDONLY | os.O_DIRECTORY)
        if folder == below:
            return


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
