"""Devices by name: what they hold and how fast they are, for plans of runs that nobody has made yet. Torch-free.

Memory is what `nvidia-smi` calls the card's total, less what a process takes before its first tensor. Speed is the data
sheet's: matrix products of 16-bit numbers, dense, summed in fp32 (NVIDIA's T4, L4, A100 and H100 data sheets, the GA102 and Ada
white papers). What a run gets of it nobody has measured here; `duration.py` says with which share it reckons.
"""

from dataclasses import dataclass

from vlm.precision import Precision

CONTEXT_BYTES = 600_000_000  # CUDA's own: its context and the libraries' kernels
_OTHERS = {"laptop", "mobile", "max", "q", "ti", "super", "d"}  # words of cards that are not the one named
_OTHERS_OF = {"h100": {"pcie", "nvl"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One kind of GPU.

    Attributes:
        name: As users write it.
        memory_gb: What a run may hold on it, in 10^9 bytes.
        precision: What it computes in best.
        operations_per_s: Of its matrix units, at most.
    """

    name: str
    memory_gb: float
    precision: Precision
    operations_per_s: float


def _card(name: str, total_mib: int, tera: float, precision: Precision = "bf16") -> Card:
    memory_gb = round((total_mib * 2**20 - CONTEXT_BYTES) / 1e9, 1)
    return Card(name=name, memory_gb=memory_gb, precision=precision, operations_per_s=tera * 1e12)


CARDS: tuple[Card, ...] = (
    _card("t4", 15_109, 65, "fp16"),
    _card("rtx-4060", 8_188, 30),
    _card("l4", 23_034, 121),
    _card("rtx-3090", 24_268, 71),
    _card("rtx-4090", 24_564, 165),
    _card("a100-40gb", 40_960, 312),
    _card("a100-80gb", 81_920, 312),
    _card("h100", 81_559, 989),
)
CPU = "cpu"


def find(name: str) -> Card | None:
    """Return the card of this name."""
    return next((card for card in CARDS if card.name == name), None)


def recognize(model: str) -> Card | None:
    """Return the card that a driver calls by this name, such as `NVIDIA GeForce RTX 4090`; None of one that we do not know."""
    words = model.lower().replace("-", " ").split()
    found = [
        card
        for card in CARDS
        if set(card.name.split("-")) <= set(words) and not (_OTHERS | _OTHERS_OF.get(card.name, set())) & set(words)
    ]
    return max(found, key=lambda card: len(card.name), default=None)
