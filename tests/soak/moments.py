"""When something is hurt: at any time, or in one of the short moments that a random time seldom meets.

What a worker does is read from its staging folders, which costs the servers nothing.
"""

import random
import time
from pathlib import Path

from tests.soak.servers import Servers

ANY, SAVING, TRAINING, PUBLISHING = "any", "saving", "training", "publishing"
_DRAWN = (ANY, ANY, ANY, TRAINING, SAVING, PUBLISHING)
_SIGNS = {PUBLISHING: "adapter/manifest.json", SAVING: "kept/*", TRAINING: "checkpoints/*"}
_LONGEST_S = 10.0
_LOOK_S = 0.01


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
    return next((doing for doing, sign in _SIGNS.items() if any(folder.glob(sign))), "loading")
