"""Build a model folder once, whoever asks first; everyone else waits for it or finds it."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def build_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return `folder`, built by `make` if it does not exist.

    Several processes may ask at once: one builds under a file lock, in a temporary folder beside the target
    that is renamed when it is complete; a build that was killed leaves nothing under the final name.

    Args:
        folder: The final folder. Its name must change whenever its content would.
        make: Fills the empty folder that it is given.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        for leftover in folder.parent.glob(f".{folder.name}.part-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.part-", dir=folder.parent))
        try:
            make(part)
            part.chmod(0o755)
            os.replace(part, folder)  # noqa: PTH105 - one atomic call, named as what it is
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder
