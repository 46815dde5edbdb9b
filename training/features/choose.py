"""Decide where a run gets its images from, and say why: pixels, the frozen tower, or the feature cache."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.child import Child
from training.encoding import Encoder
from training.features.fill import TooLarge, drop_vision_tower, fill
from training.features.key import feature_key
from training.features.store import FeatureStore
from training.precision import autocast
from training.settings import TRAINS_VISION
from training.vision import CachedVision, FrozenVision, PixelVision, Tower, Vision
from vlm.loading import LoadedBase
from vlm.precision import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRequest:
    """What a run trains and allows.

    Attributes:
        trains_vision: The vision tower has an adapter, so its features change with every step.
        trains_connector: Only the connector has one: what is kept lies before it.
        cache_dir: Where; None where the operator gives no room.
        budget_bytes: How much, for all jobs together.
    """

    trains_vision: bool
    trains_connector: bool
    cache_dir: Path | None
    budget_bytes: int

    @property
    def refusal(self) -> str | None:
        """Return why features cannot be kept; None when they can."""
        if self.trains_vision:
            return TRAINS_VISION
        if self.cache_dir is None or self.budget_bytes == 0:
            return "this worker gives it no room (LENSMITH_FEATURE_CACHE_BYTES)"
        return None


def choose(
    request: CacheRequest,
    base: LoadedBase,
    encoder: Encoder,
    *,
    wants_cache: bool,
    precision: Precision,
    tokens: Mapping[str, int],
    child: Child,
) -> Vision:
    """Return the images of a run; with the feature cache, all are looked at before this returns, and the tower is gone.

    Args:
        request: What the run trains and allows.
        base: The loaded base, wrapped in place.
        encoder: That cuts images.
        wants_cache: Whether features are kept, as the run settled it.
        precision: What the run computes in.
        tokens: Image tokens of every image that the run needs, by sha256.
        child: Hears the choice and its reason.
    """
    model: Any = base.model
    if request.trains_vision:
        return PixelVision(base.family, encoder.pixels, device=model.device)
    tower = Tower(
        model,
        base.family,
        encoder.pixels,
        autocast=lambda: autocast(torch.device(model.device), precision),
        trains_connector=request.trains_connector,
    )
    if not tokens:  # text only: nobody will ask for the tower
        drop_vision_tower(model, base.family, keep_connector=request.trains_connector)
        return FrozenVision(tower)
    if not wants_cache:
        return FrozenVision(tower)
    assert request.cache_dir is not None
    key = feature_key(base, precision=precision, trains_connector=request.trains_connector)
    try:
        store = FeatureStore(request.cache_dir, key, budget_bytes=request.budget_bytes)
        fill(store, tower, tokens, child)
    except (TooLarge, OSError) as error:
        child.events.log(f"The feature cache is off: {error}. Every image is looked at in every step.", level="warning")
        return FrozenVision(tower)
    drop_vision_tower(model, base.family, keep_connector=request.trains_connector)
    return CachedVision(tower, store)
