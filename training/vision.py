"""Where a batch gets its images from: pixels when vision is trained, else features of the frozen tower.

What is frozen runs under `no_grad`, outside of the graph: transformers would keep its activations, and with gradient
checkpointing back-propagate through it, for nothing.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vlm.family import Family, Pixels

Cut = Callable[[str], Pixels]  # by an image's sha256
Autocast = Callable[[], AbstractContextManager[Any]]


class Vision(Protocol):
    """The images of rows, as arguments of the model."""

    def inputs(self, rows: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Return the arguments for rows of images, named by their sha256 in order of appearance."""
        ...


class PixelVision:
    """Vision inside of the graph, for a tower that is trained."""

    def __init__(self, family: Family, cut: Cut, *, device: torch.device | str) -> None:
        self._family = family
        self._cut = cut
        self._device = device

    def inputs(self, rows: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Return the pixels of all images."""
        joined = self._family.join([[self._cut(sha256) for sha256 in row] for row in rows])
        return {name: tensor.to(self._device) for name, tensor in joined.items()}


class Tower:
    """The frozen vision tower of a base, and its connector.

    Attributes:
        trains_connector: The connector is in the graph; what is kept of an image is what lies before it.
    """

    def __init__(self, model: Any, family: Family, cut: Cut, *, autocast: Autocast, trains_connector: bool) -> None:
        self._model = model
        self._family = family
        self._cut = cut
        self._autocast = autocast
        self.trains_connector = trains_connector

    @property
    def device(self) -> torch.device:
        """Return where features are wanted."""
        return torch.device(self._model.device)

    def encode(self, images: Sequence[str]) -> list[torch.Tensor]:
        """Return what is kept of each image: its features, or what the connector takes where that is trained."""
        cut = [{name: tensor.to(self.device) for name, tensor in self._cut(each).items()} for each in images]
        with torch.no_grad(), self._autocast():
            seen = self._family.encode_images(self._model, cut)
            kept = seen if self.trains_connector else self._family.project(self._model, seen)
        # autocast leaves some in float32, which the model would cast anyway
        return [each.to(self._model.dtype) for each in kept]

    def arguments(self, kept: Sequence[torch.Tensor]) -> dict[str, Any]:
        """Return the model's arguments for the images of a batch, from what was kept of each."""
        if not kept:
            return {}
        on_device = [each.to(self.device) for each in kept]
        if self.trains_connector:
            with self._autocast():
                on_device = self._family.project(self._model, on_device)
        return {"mm_encoder_outputs": {"image": _as_output(on_device)}}


def _as_output(features: Any) -> BaseModelOutputWithPooling:
    """Return a list of features as the models take it; its type says one tensor."""
    return BaseModelOutputWithPooling(pooler_output=features)


class FrozenVision:
    """The frozen tower, run anew for every batch."""

    def __init__(self, tower: Tower) -> None:
        self._tower = tower

    def inputs(self, rows: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Return the features of all images; one that appears twice is looked at once."""
        names = [sha256 for row in rows for sha256 in row]
        distinct = list(dict.fromkeys(names))
        seen = dict(zip(distinct, self._tower.encode(distinct) if distinct else [], strict=True))
        return self._tower.arguments([seen[sha256] for sha256 in names])


class Features(Protocol):
    """What was kept of images, by their sha256."""

    def __getitem__(self, sha256: str) -> torch.Tensor:
        """Return what was kept."""
        ...


class CachedVision:
    """Features that were made before the first step; the tower may be gone."""

    def __init__(self, tower: Tower, features: Features) -> None:
        self._tower = tower
        self._features = features

    def inputs(self, rows: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Return the features of all images."""
        return self._tower.arguments([self._features[sha256] for row in rows for sha256 in row])
