"""Naive model parallelism: which parts of one model lie on which GPU, planned on a model without memory.

A batch passes the GPUs one after the other, so this makes room, not speed. Never split: the vision tower, the connector,
the embeddings, each layer of the text model, the head; a residual connection stays on one GPU. The parts keep the order in
which a batch meets them, the vision tower first; a head that shares the weight of the embeddings lies beside them.

accelerate's `infer_auto_device_map` is not used: it keeps room on the first GPU for layers that are offloaded, which
training cannot be, and does not tell how much is missing (1.15, SmolVLM-500M in bf16 on two budgets of 0.5 GB: 0.13 GB find
no place, and the true answer is 0.01 GB). What it asks of a map, `check_device_map`, holds for ours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PretrainedConfig

from core.errors import FailureCode, WorkFailed
from vlm.family import Family
from vlm.precision import Quantization

# Bytes of a stored weight. In 4 bits each block of 64 has a scale of one byte, and each 256 of these a float32.
_STORED_BYTES: dict[Quantization, float] = {
    "nf4": 1 / 2 + 1 / 64 + 4 / (64 * 256),
    "fp4": 1 / 2 + 1 / 64 + 4 / (64 * 256),
    "int8": 1.0,
}
_SEARCH_STEPS = 40  # halvings; enough for a byte of any budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the parts of a model lie.

    Attributes:
        device_map: Name of each part to the number of its GPU; transformers' `device_map`.
        bytes_by_gpu: Weights on each GPU.
    """

    device_map: dict[str, int]
    bytes_by_gpu: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What lies on one GPU as a whole; `beside` names an earlier part whose weight it shares."""

    name: str
    size_bytes: int
    beside: str | None


def plan(
    config: PretrainedConfig,
    family: Family,
    *,
    quantization: Quantization,
    dtype: torch.dtype,
    budgets_bytes: Sequence[int],
) -> Placement:
    """Return the placement that fills all GPUs to the same share of their budgets, as far as whole parts allow.

    Args:
        config: Of the model; its weights are not needed.
        family: What is known of its kind.
        quantization: For the linear layers of the text model.
        dtype: The type of everything else.
        budgets_bytes: What each GPU gives to weights; the rest of its memory is for activations.

    Raises:
        WorkFailed: `out_of_memory`, with how much is missing.
    """
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    parts = list(_parts(model, family, quantization))
    low, high = 0.0, sum(part.size_bytes for part in parts) / min(budgets_bytes)  # there, all fits on any one
    for _ in range(_SEARCH_STEPS):
        share = (low + high) / 2
        low, high = (share, high) if _fill(parts, budgets_bytes, share=share) is None else (low, share)
    device_map = _fill(parts, budgets_bytes, share=high)
    assert device_map is not None
    by_gpu = [0] * len(budgets_bytes)
    for part in parts:
        by_gpu[device_map[part.name]] += part.size_bytes
    excess, gpu = max(
        (used - budget, gpu) for gpu, (used, budget) in enumerate(zip(by_gpu, budgets_bytes, strict=True))
    )
    if excess > 0:
        raise _too_large(excess, gpu=gpu, sizes=by_gpu)
    return Placement(device_map=device_map, bytes_by_gpu=tuple(by_gpu))


def _fill(parts: Sequence[_Part], budgets_bytes: Sequence[int], *, share: float) -> dict[str, int] | None:
    """Fill one GPU after the other to this share of its budget; None when the last is full too early."""
    places: dict[str, int] = {}
    gpu, left = 0, budgets_bytes[0] * share
    for part in parts:
        if part.beside is not None:
            places[part.name] = places[part.beside]
            continue
        while part.size_bytes > left:
            gpu += 1
            if gpu == len(budgets_bytes):
                return None
            left = budgets_bytes[gpu] * share
        places[part.name] = gpu
        left -= part.size_bytes
    return places


def _parts(model: Any, family: Family, quantization: Quantization) -> Iterator[_Part]:
    """Yield the parts in the order in which a batch meets them."""
    owners: dict[int, str] = {}
    for name, module in _unsplit(model, family):
        shared = {owners[id(weight)] for weight in module.parameters() if id(weight) in owners}
        owners |= {id(weight): name for weight in module.parameters() if id(weight) not in owners}
        size = sum(
            weight.numel() * _bytes(f"{name}.{inner}", weight, family, quantization)
            for inner, weight in module.named_parameters()
            if owners[id(weight)] == name
        )
        yield _Part(name=name, size_bytes=int(size), beside=min(shared, default=None))


def _unsplit(module: torch.nn.Module, family: Family, prefix: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    for inner, child in module.named_children():
        name = f"{prefix}{inner}"
        if family.is_unsplit(name) or not any(child.children()):
            yield name, child
        else:
            yield from _unsplit(child, family, f"{name}.")


def _bytes(name: str, weight: torch.Tensor, family: Family, quantization: Quantization) -> float:
    """Return the bytes of one number of a weight: the matrices of the text model are quantized, but its embeddings."""
    if quantization != "none" and weight.ndim == 2 and family.is_text_module(name) and "embed" not in name:
        return _STORED_BYTES[quantization]
    return float(weight.element_size())


def _too_large(excess_bytes: int, *, gpu: int, sizes: Sequence[int]) -> WorkFailed:
    shares = ", ".join(f"{size / 1e9:.2f}" for size in sizes)
    return WorkFailed(
        FailureCode.OUT_OF_MEMORY,
        f"The base does not fit: spread as evenly as its layers allow ({shares} GB), its weights need "
        f"{excess_bytes / 1e9:.2f} GB more than GPU {gpu} has for them.",
        remedy='Raise resources.gpus, take GPUs with more free memory, or store the base in 4 bits (method.type "qlora").',
    )
