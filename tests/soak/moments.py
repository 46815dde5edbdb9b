"""When something is hurt: at any time, or in one of the short moments that a random time seldom meets.

What a worker does is read from its staging folders, which costs the servers nothing.
"""

import random
import time
from pathlib import Path

from core.manifest import MANIFEST_FILE
from tests.soak.servers import Servers

ANY, LOADING, TRAINING, SAVING, PUBLISHING = "any", "loading", "training", "saving", "publishing"
_DRAWN = (ANY, ANY, ANY, ANY, TRAINING, SAVING, PUBLISHING)
_LONGEST_S = 20.0
_LOOK_S = 0.005  # a checkpoint of `tiny` is stored in some hundredths of a second


def draw(dice: random.Random) -> tuple[str, float]:
    """Return a moment, and how long to wait from there."""
    moment = dice.choice(_DRAWN)
    return moment, dice.uniform(0, 3) if moment == ANY else dice.choice((0.0, dice.uniform(0, 0.3)))


def wait_for(servers: Servers, moment: str) -> None:
    """Wait until some job is at a moment; not for ever, because it may not come while something else is awaited."""
    deadline = time.monotonic() + _LONGEST_S
    while moment != ANY and moment not in doings(servers).values() and time.monotonic() < deadline:
        time.sleep(_LOOK_S)


def doings(servers: Servers) -> dict[str, str]:
    """Return what is done to each job that has a staging folder: `loading`, `training`, `saving` or `publishing`."""
    return {folder.name: _doing(folder) for folder in servers.settings.layout.staging_root.iterdir()}


def _doing(folder: Path) -> str:
    if (folder / "adapter" / MANIFEST_FILE).exists():
        return PUBLISHING
    if any((folder / "kept").glob("*")):
        return SAVING
    began_s = _changed_s(folder / "spec.json")
    saved = any(0 < began_s < _changed_s(path) for path in (folder / "checkpoints").glob("*"))
    return TRAINING if saved else LOADING


def _changed_s(path: Path) -> float:
    """Return when something was written, or 0.0: it is not there, or gone while we look."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
