"""Before the first step: encode every image once, keep its features, and drop the vision tower."""

import time
from collections.abc import Mapping
from typing import Any

import torch

from core.child import Child
from training.features.store import FeatureStore
from training.passes import tower_passes
from training.vision import Tower
from vlm.family import Family

_TELL_EVERY_S = 15.0


class TooLarge(Exception):
    """The features of these images do not fit the cache."""


def fill(store: FeatureStore, tower: Tower, tokens: Mapping[str, int], child: Child) -> None:
    """Keep the features of all images; what is kept already is not encoded again.

    Args:
        store: Of this way of encoding images.
        tower: Encodes them.
        tokens: Image tokens of every image that the run needs, by sha256.
        child: Whose `stop` ends it; hears how far it is.

    Raises:
        TooLarge: They do not fit; nothing is evicted for it.
        OSError: They cannot be written.
        StopRequested: What was kept until then stays.
    """
    names = list(tokens)
    kept = store.find(names, on_damage=lambda text: child.events.log(f"Feature cache, {text}.", level="warning"))
    missing = [name for name in names if name not in kept]
    child.events.log(f"{len(names):,} images; the features of {len(kept):,} are in the cache.")
    encoded, told_at = 0, time.monotonic()
    for some in tower_passes(missing, tokens.__getitem__):
        if child.stop.is_set():
            store.flush()
        child.check_stop()
        made = tower.encode(some)
        if encoded == 0:
            _check_room(made[0], tokens[some[0]], sum(tokens.values()), store.budget_bytes)
        for name, features in zip(some, made, strict=True):
            store.put(name, features)
        encoded += len(some)
        if time.monotonic() - told_at > _TELL_EVERY_S:
            child.events.log(f"Encoded {encoded:,} of {len(missing):,} images.")
            told_at = time.monotonic()
    store.flush()
    store.evict()


def drop_vision_tower(model: Any, family: Family, *, keep_connector: bool) -> None:
    """Take the vision tower from the device, and its memory with it; nothing may need it any more."""
    names = [family.vision_tower] if keep_connector else [family.vision_tower, family.connector]
    for name in filter(None, names):
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, DroppedModule())
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class DroppedModule(torch.nn.Module):
    """Stands where the vision tower was."""

    def forward(self, *_: Any, **__: Any) -> None:
        """Refuse: all images were encoded before the first step.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("The vision tower is gone: the features of all images were made before the first step.")


def _check_room(features: torch.Tensor, num_tokens: int, all_tokens: int, budget_bytes: int) -> None:
    """Refuse at the first image what would not fit at the last; features grow with the tokens of an image."""
    needed = features.nbytes * all_tokens // num_tokens
    if needed > budget_bytes:
        raise TooLarge(
            f"the features of all images would take {needed / 1e9:,.1f} GB and the cache holds {budget_bytes / 1e9:,.1f} GB"
        )
