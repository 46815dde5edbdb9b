"""The feature cache: a folder for each way of looking at images, shards in it, least recently used ones evicted.

    <root>/<digest of the key>/key.json            what the features depend on
    <root>/<digest of the key>/<random>.safetensors

Jobs of the same base share a folder without a lock: shards appear whole, are never changed, and one that is evicted
while another job has it mapped lives until that job ends.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from training.features import shard
from training.features.shard import Damaged, Shard

SHARD_BYTES = 64 * 1024 * 1024
_KEY = "key.json"
_LEFTOVER_S = 3600.0  # a temporary file this old, or a folder that is empty for so long, belongs to nobody


class FeatureStore:
    """The features of one key, and the eviction of all keys below the same root."""

    def __init__(self, root: Path, key: Mapping[str, object], *, budget_bytes: int) -> None:
        text = json.dumps(key, sort_keys=True, indent=2)
        self._root = root
        self._folder = root / hashlib.sha256(text.encode()).hexdigest()[:32]
        self._key = text
        self.budget_bytes = budget_bytes
        self._where: dict[str, Shard] = {}
        self._waiting: dict[str, torch.Tensor] = {}
        self._make_folder()

    def find(self, names: Iterable[str], *, on_damage: Callable[[str], None]) -> set[str]:
        """Return which of these images are kept, whole; a shard with damage is removed and told of."""
        wanted = set(names)
        for path in sorted(self._folder.glob(f"*{shard.SUFFIX}")):
            try:
                self._take(path, wanted - self._where.keys())
            except FileNotFoundError:  # another job has evicted it at this moment
                continue
            except OSError as error:
                on_damage(f"{path.name} is left aside: {error}")
            except Damaged as damaged:
                path.unlink(missing_ok=True)
                on_damage(str(damaged))
        return wanted & self._where.keys()

    def put(self, name: str, features: torch.Tensor) -> None:
        """Keep what was made of an image; it is on disk after the next `flush`, which comes by itself every 64 MiB.

        Raises:
            OSError: It cannot be written.
        """
        self._waiting[name] = features.detach().cpu().contiguous().clone()  # a view would keep the whole batch
        if sum(each.nbytes for each in self._waiting.values()) >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits, after room was made for it; raises `OSError`."""
        if not self._waiting:
            return
        self.evict(sum(each.nbytes for each in self._waiting.values()))
        self._make_folder()  # a job that evicts may have taken it away
        written = shard.write(self._folder, self._waiting)
        self._where.update(dict.fromkeys(self._waiting, written))
        self._waiting.clear()

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return what was kept of an image."""
        return self._where[name].read(name)

    def evict(self, incoming_bytes: int = 0) -> None:
        """Remove the least recently used shards of all keys until the rest, and what comes, fits the budget."""
        mine = {each.path for each in self._where.values()}
        for path in mine:
            with suppress(OSError):
                os.utime(path)
        shards = sorted(_sizes(self._root), key=lambda each: (each[0] in mine, each[1]))
        total = incoming_bytes + sum(size for *_, size in shards)
        for path, _, size in shards:
            if total <= self.budget_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
        _sweep(self._root)

    def _make_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / _KEY).write_text(self._key, encoding="utf-8")

    def _take(self, path: Path, wanted: set[str]) -> None:
        opened = Shard(path)
        found = sorted(opened.names & wanted)
        if broken := next((name for name in found if not opened.is_whole(name)), None):
            raise Damaged(f"{path.name}: the features of image {broken} are not what was written")
        self._where.update(dict.fromkeys(found, opened))


def _sizes(root: Path) -> Iterator[tuple[Path, float, int]]:
    """Yield (path, last use, bytes) of every shard; others may be removing some at this moment."""
    for path in root.glob(f"*/*{shard.SUFFIX}"):
        with suppress(OSError):
            status = path.stat()
            yield path, status.st_mtime, status.st_size


def _sweep(root: Path) -> None:
    """Remove what a killed job left half written, and folders without a shard that nobody opened for long."""
    for path in root.glob(f"*/{shard.PART}*"):
        with suppress(OSError):
            if _is_left_over(path):
                path.unlink()
    for path in root.glob(f"*/{_KEY}"):
        with suppress(OSError):
            if _is_left_over(path) and list(path.parent.iterdir()) == [path]:
                path.unlink()
                path.parent.rmdir()


def _is_left_over(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > _LEFTOVER_S
