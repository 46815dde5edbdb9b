"""A second name for the bytes of a file, so that they outlive the first."""

import os
import shutil
from pathlib import Path


def link_or_copy(source: Path | str, target: Path | str) -> None:
    """Give a file a second name; where the file system has no links, copy it.

    Raises:
        FileNotFoundError: It is gone.
    """
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
