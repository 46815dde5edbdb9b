"""What a job would run on: a worker that is there, or a device by its name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from training import cards
from training.cards import Card
from training.planned_run import Device
from training.resources import Resources
from vlm.precision import Precision

_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A device as a plan sees it.

    Attributes:
        name: In words.
        precision: What it computes in best.
        memory_gb: What a run may hold on it, in 10^9 bytes; None where nobody knows.
        num_cores: Of a CPU.
        card: Of a GPU whose speed is known.
        is_running: Whether a worker that is there has it.
        is_beside_gpu: Whether it is the processor of a worker that has a GPU, whose memory alone is looked at there.
    """

    name: str
    device: Device
    precision: Precision
    memory_gb: float | None = None
    num_cores: int = 1
    card: Card | None = None
    is_running: bool = False
    is_beside_gpu: bool = False


def named(name: str) -> Place | None:
    """Return the device of a name: a card, or `cpu`."""
    if name == cards.CPU:
        return Place(name="CPU", device="cpu", precision="fp32")
    card = cards.find(name)
    if card is None:
        return None
    return Place(name=card.name, device="cuda", precision=card.precision, memory_gb=card.memory_gb, card=card)


def able(capacities: Iterable[Mapping[str, Any]], resources: Resources) -> tuple[Place, ...]:
    """Return where a job could run, the best first; without any worker, what it asks for, of unknown size."""
    found = {_of_worker(each, resources) for each in capacities if _can_take(each, resources)}
    if found:
        return tuple(sorted(found, key=_rank, reverse=True))
    if resources.num_gpus:
        return (Place(name="GPU", device="cuda", precision="bf16"),)
    return (Place(name="CPU", device="cpu", precision="fp32"),)


def _rank(place: Place) -> tuple[bool, float, str]:
    return place.device == "cuda", inf if place.memory_gb is None else place.memory_gb, place.name


def _can_take(capacity: Mapping[str, Any], resources: Resources) -> bool:
    wanted = resources.resource_class
    return capacity.get("gpus", 0) >= resources.num_gpus and (wanted is None or wanted in capacity.get("classes", ()))


def _of_worker(capacity: Mapping[str, Any], resources: Resources) -> Place:
    """Return where a worker would run a job; workers of before say less of themselves."""
    has_gpu = capacity.get("gpus", 0) > 0
    return _gpu_of(capacity) if has_gpu and resources.gpus != 0 else _processor_of(capacity, has_gpu=has_gpu)


def _gpu_of(capacity: Mapping[str, Any]) -> Place:
    name = str(capacity.get("device", "GPU"))
    card, memory = cards.recognize(name), capacity.get("memory_bytes")
    known_gb = None if memory is None else round(memory / 1e9, 2)
    return Place(
        name=name,
        device="cuda",
        precision="bf16" if card is None else card.precision,
        memory_gb=card.memory_gb if known_gb is None and card is not None else known_gb,
        card=card,
        is_running=True,
    )


def _processor_of(capacity: Mapping[str, Any], *, has_gpu: bool) -> Place:
    """Return a worker's processor; one that has a GPU tells the memory of that, not of its host."""
    told, memory = capacity.get("precision"), None if has_gpu else capacity.get("memory_bytes")
    return Place(
        name="CPU" if has_gpu else str(capacity.get("device", "CPU")),
        device="cpu",
        precision=next((each for each in _PRECISIONS if each == told), "fp32"),
        memory_gb=None if memory is None else round(memory / 1e9, 2),
        num_cores=capacity.get("cores") or 1,
        is_running=True,
        is_beside_gpu=has_gpu,
    )
