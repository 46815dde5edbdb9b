"""What the weights of a run take, exactly: the base by part, the adapter, its gradients, the optimizer's state. Torch-free.

Arithmetic over shapes; tests hold it against the tensors of real models, adapters and optimizers. Sources: bitsandbytes 0.50
(`functional.quantize_4bit`, `functional.quantize_blockwise`, `optim.optimizer.Optimizer2State`), PEFT 0.21 (`tuners.lora`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil

from training.spec import Method, Optimizer
from vlm.lora_scope import LoraScope
from vlm.modules import Module, Part
from vlm.precision import Quantization

FLOAT_BYTES = 4  # of float32, in which the adapter, its gradients and the optimizer's state are kept
_BLOCK = 64  # weights that share a scale in 4 bits
_SCALES_BLOCK = 256  # scales that share a scale of their own, with double quantization
_TABLE_4BIT = 16 * FLOAT_BYTES  # the values that 4 bits stand for, with each weight
_TABLE_8BIT = 256 * FLOAT_BYTES
_STATE_BLOCK = 256  # of an 8-bit optimizer
_SMALL = 4096  # tensors with fewer elements keep a state of 32 bits in an 8-bit optimizer
_STEP_BYTES = 4  # torch's AdamW counts the steps of each tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """How the base is held.

    Attributes:
        quantization: Of the text model's linear layers; everything else is kept in `item_bytes`.
        double: Whether the scales of 4-bit weights are quantized, too.
        item_bytes: Of a weight that is not quantized: 2 or 4.
    """

    quantization: Quantization
    double: bool
    item_bytes: int


def base_bytes(modules: Iterable[Module], stored: Stored) -> dict[Part, int]:
    """Return the bytes of each part of a base model."""
    parts: dict[Part, int] = {}
    for module in modules:
        parts[module.part] = parts.get(module.part, 0) + _module_bytes(module, stored)
    return parts


def adapter_shapes(modules: Iterable[Module], scope: LoraScope, method: Method) -> Iterator[tuple[int, ...]]:
    """Yield the shape of every tensor that is trained: LoRA's A and B, and the magnitude of DoRA."""
    for module in modules:
        if module.is_linear and scope.reaches(module.name):
            yield (method.r, module.columns)
            yield (module.rows, method.r)
            if method.use_dora:
                yield (module.rows,)


def num_trained(shapes: Iterable[tuple[int, ...]]) -> int:
    """Return how many parameters are trained; each takes 4 bytes, and its gradient as many."""
    return sum(_numel(shape) for shape in shapes)


def optimizer_bytes(shapes: Iterable[tuple[int, ...]], optimizer: Optimizer) -> int:
    """Return the bytes of the optimizer's state; a paged one may leave the GPU with all of it."""
    is_8bit = optimizer.endswith("8bit")
    return sum(_state_bytes(_numel(shape), is_8bit=is_8bit, counts=optimizer == "adamw") for shape in shapes)


def _module_bytes(module: Module, stored: Stored) -> int:
    num_rest = module.num_parameters - module.num_weights
    if module.part == "text" and module.is_linear:
        return _quantized_bytes(module, stored) + num_rest * stored.item_bytes
    return module.num_parameters * stored.item_bytes


def _quantized_bytes(module: Module, stored: Stored) -> int:
    num_weights = module.num_weights
    if stored.quantization == "none":
        return num_weights * stored.item_bytes
    if stored.quantization == "int8":
        return num_weights + module.rows * FLOAT_BYTES  # a scale for each row
    scales = ceil(num_weights / _BLOCK)
    packed = ceil(num_weights / 2) + _TABLE_4BIT
    if not stored.double:
        return packed + scales * FLOAT_BYTES
    return packed + scales + ceil(scales / _SCALES_BLOCK) * FLOAT_BYTES + _TABLE_8BIT + FLOAT_BYTES  # and their mean


def _state_bytes(numel: int, *, is_8bit: bool, counts: bool) -> int:
    """Return the bytes of two moments of one tensor."""
    if is_8bit and numel >= _SMALL:
        return 2 * (numel + ceil(numel / _STATE_BLOCK) * FLOAT_BYTES)
    return 2 * numel * FLOAT_BYTES + (_STEP_BYTES if counts else 0)


def _numel(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
