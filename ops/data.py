"""The data directory of one machine's service: made, locked, and rid of what a killed run left behind."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.layout import Layout
from core.storage import STAGING_PREFIX
from ops.errors import CannotStart


def make(layout: Layout) -> None:
    """Create the folders of the data directory.

    Raises:
        CannotStart: It cannot be written.
    """
    try:
        layout.make()
    except OSError as error:
        raise _unwritable(layout, error) from error


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Hold the data directory; the kernel lets go of the lock however this process ends.

    Raises:
        CannotStart: Another service holds it, or it cannot be written.
    """
    try:
        descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unwritable(layout, error) from error
    try:
        _take(descriptor, layout)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, layout: Layout) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 32).decode().strip()
        raise CannotStart(
            f"A service already runs on {layout.root} (process {owner}); stop it, or take another --data-dir."
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())


def sweep(layout: Layout, *, own_storage: bool) -> None:
    """Remove what only a running part may own; call it under the lock, before any part starts.

    A part that is killed leaves its staging folder, and whatever it was about to unpack under a temporary name:
    `….req_<id>` (`worker.training`, `api.datasets`) and `fetching-<random>` (`serving.adapters`). `own_storage`: the
    objects lie in the data directory, so that nobody else can be writing one under its temporary key.
    """
    leftovers: list[Path] = [
        *layout.staging_root.glob("*"),
        *layout.datasets.glob("*.req_*"),
        *layout.tables.glob("*.req_*"),
        *layout.thumbnails.glob("*.req_*"),
        *layout.adapters.glob("fetching-*"),
        *((layout.storage / STAGING_PREFIX).glob("*") if own_storage else ()),
    ]
    for path in leftovers:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _unwritable(layout: Layout, error: OSError) -> CannotStart:
    return CannotStart(
        f"The data directory {layout.root} cannot be written ({error.strerror}); "
        "mend its rights, or take another with --data-dir (LENSMITH_DATA_DIR)."
    )
