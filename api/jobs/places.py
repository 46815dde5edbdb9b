"""What a job would run on: a worker that is there, or a device by its name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
    """

    name: str
    device: Device
    precision: Precision
    memory_gb: float | None = None
    num_cores: int = 1
    card: Card | None = None
    is_running: bool = False


def named(name: str) -> Place | None:
    """Return the device of a name: a card, or `cpu`."""
    if name == cards.CPU:
        return Place(name="CPU", device="cpu", precision="fp32")
    card = cards.find(name)
    if card is None:
        return None
    return Place(name=card.name, device="cuda", precision=card.precision, memory_gb=card.memory_gb, card=card)


def best(capacities: Iterable[Mapping[str, Any]], resources: Resources) -> Place:
    """Return the largest of the workers that could take a job; without any, what the job asks for, of unknown size."""
    able = [_of_worker(each, resources) for each in capacities if _can_take(each, resources)]
    if able:
        return max(able, key=lambda place: (place.device == "cuda", place.memory_gb or 0.0))
    if resources.num_gpus:
        return Place(name="GPU", device="cuda", precision="bf16")
    return Place(name="CPU", device="cpu", precision="fp32")


def _can_take(capacity: Mapping[str, Any], resources: Resources) -> bool:
    wanted = resources.resource_class
    return capacity.get("gpus", 0) >= resources.num_gpus and (wanted is None or wanted in capacity.get("classes", ()))


def _of_worker(capacity: Mapping[str, Any], resources: Resources) -> Place:
    on_gpu = capacity.get("gpus", 0) > 0 and resources.gpus != 0
    name = str(capacity.get("device", "GPU" if on_gpu else "CPU"))
    card = cards.recognize(name) if on_gpu else None
    told = capacity.get("precision")
    precision = next((each for each in _PRECISIONS if each == told), "bf16" if on_gpu else "fp32")
    memory = capacity.get("memory_bytes")
    if memory is None and card is not None:
        memory = card.memory_gb * 1e9
    return Place(
        name=name,
        device="cuda" if on_gpu else "cpu",
        precision=card.precision if card is not None else precision,
        memory_gb=None if memory is None else round(memory / 1e9, 2),
        num_cores=capacity.get("cores") or 1,
        card=card,
        is_running=True,
    )
