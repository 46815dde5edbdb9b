"""What decides how much memory a run holds. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from training.activations import FLOAT_BYTES
from training.passes import ImageSize, Pass
from training.settings import Schedule
from training.spec import Method
from vlm.geometry import Geometry
from vlm.lora_scope import LoraScope
from vlm.modules import Module, modules_of

Device = Literal["cpu", "cuda"]
Parts = dict[str, int]  # bytes of each part


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run before it starts.

    Attributes:
        geometry: Of the base.
        scope: What the adapter reaches.
        passes: Every pass of training, or those that differ.
        validation: Every pass of validation.
        num_shapes: How many different numbers of tokens they have, as far as steps come together in any order.
        images: Each distinct one that the run needs, in the order in which they are looked at.
        num_tiles: Of all of them.
        distinct_tokens: How many different tokens the texts have; None when nobody knows.
    """

    geometry: Geometry
    method: Method
    scope: LoraScope
    schedule: Schedule
    device: Device
    passes: Sequence[Pass]
    validation: Sequence[Pass]
    num_shapes: int
    images: Sequence[ImageSize]
    num_tiles: int
    distinct_tokens: int | None = None

    @property
    def is_cached(self) -> bool:
        """Tell whether images are looked at before the first step only."""
        return self.schedule.feature_cache

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """Return the base's modules."""
        return tuple(modules_of(self.geometry))

    @property
    def item_bytes(self) -> int:
        """Return the bytes of a number that is computed with."""
        return FLOAT_BYTES if self.schedule.precision == "fp32" else 2
