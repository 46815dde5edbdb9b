"""Is this LoRA adapter safe and whole? Answered before PEFT reads a byte of it. Torch-free.

PEFT is no validator: a `target_modules` pattern can hang it, a forged `r` makes it allocate gigabytes, a file with
too few tensors loads silently in part, and an alpha of NaN loads (facts: serving 0.9). So the configuration is parsed
strictly, and the set of tensors must be exactly what it implies on this base.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import Invalid
from serving.adapters import CONFIG_FILE, WEIGHTS_FILE
from vlm import catalog
from vlm.lora_scope import LoraNames, LoraScope, published_scope
from vlm.precision import Quantization

MAX_HEADER_BYTES = 1024 * 1024
MAX_CONFIG_BYTES = 256 * 1024
MAX_RANK = 512  # training's 256, twice: what began by PiSSA is published as plain LoRA of twice the rank

_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_BF16_EXPONENT = 0x7F80  # all ones: infinity or NaN

Shape = tuple[int, ...]
Empty = Annotated[dict[str, float], Field(max_length=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the adapter must fit: the base, and the linear modules that LoRA may reach.

    Attributes:
        base: A name of the base model.
        linears: (in, out) features of every linear module, by its full name.
        names: What the parts of its family are called.
        quantization: How the base is held.
    """

    base: str
    linears: Mapping[str, tuple[int, int]]
    names: LoraNames
    quantization: Quantization


class LoraConfigFile(BaseModel):
    """`adapter_config.json` as this service publishes it; every other feature of PEFT must be off."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    peft_type: Literal["LORA"]
    base_model_name_or_path: str
    r: int = Field(ge=1, le=MAX_RANK)
    lora_alpha: float = Field(gt=0, le=65536, allow_inf_nan=False)
    target_modules: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")], ...] = Field(
        min_length=1, max_length=32
    )
    exclude_modules: str | None = Field(max_length=16384)

    lora_dropout: float = Field(0.0, ge=0, lt=1, allow_inf_nan=False)
    use_rslora: bool = False
    use_dora: bool = False
    inference_mode: bool = True
    init_lora_weights: Literal[True, False, "gaussian"] = True
    task_type: Literal["CAUSAL_LM"] | None = None
    auto_mapping: dict[str, str | None] | None = None
    revision: str | None = None
    peft_version: str | None = None
    qalora_group_size: int = 16  # read only with use_qalora
    megatron_core: str | None = None  # read only with megatron_config

    bias: Literal["none"] = "none"
    alpha_pattern: Empty = {}
    rank_pattern: Empty = {}
    loftq_config: Empty | None = None
    ensure_weight_tying: Literal[False] = False
    fan_in_fan_out: Literal[False] = False
    lora_bias: Literal[False] = False
    use_bdlora: Literal[False] | None = None
    use_qalora: Literal[False] = False
    alora_invocation_tokens: None = None
    arrow_config: None = None
    corda_config: None = None
    eva_config: None = None
    kasa_config: None = None
    layer_replication: None = None
    layers_pattern: None = None
    layers_to_transform: None = None
    lora_ga_config: None = None
    megatron_config: None = None
    modules_to_save: None = None
    monteclora_config: None = None
    target_parameters: None = None
    trainable_token_indices: None = None
    velora_config: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    dtype: np.dtype[Any]
    shape: Shape
    start: int
    end: int


def check_lora(folder: Path, target: Target) -> LoraConfigFile:
    """Return the configuration of an adapter that fits the base.

    Raises:
        Invalid: It does not fit, or is not a LoRA adapter that this service would publish.
    """
    config = _parse_config(folder / CONFIG_FILE)
    if not _is_same_base(config.base_model_name_or_path, target.base):
        raise _refused(f"it was trained on {config.base_model_name_or_path!r}, not on {target.base!r}")
    if config.use_dora and target.quantization == "int8":
        # bitsandbytes drops an int8 weight's scales after its first pass; DoRA needs the weight in every one
        raise _refused("it is a DoRA adapter, and the base is held in int8; serve it in nf4 or unquantized")
    scope = published_scope(target.names, config.target_modules, config.exclude_modules)
    if scope is None:
        raise _refused("its exclude_modules is not one that Lensmith writes to keep LoRA out of parts of the model")
    expected = _expected_tensors(config, scope, target)
    _check_tensors(folder / WEIGHTS_FILE, expected)
    return config


def _is_same_base(one: str, other: str) -> bool:
    entry = catalog.find(one)
    return one == other if entry is None else entry == catalog.find(other)


def _parse_config(path: Path) -> LoraConfigFile:
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise _refused(f"{CONFIG_FILE} is larger than {MAX_CONFIG_BYTES // 1024} KiB")
    try:
        return LoraConfigFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the document"
        raise _refused(f"{CONFIG_FILE}: {field}: {first['msg']}") from error


def _expected_tensors(config: LoraConfigFile, scope: LoraScope, target: Target) -> dict[str, Shape]:
    """Return the name and shape of every tensor that PEFT would look for."""
    expected: dict[str, Shape] = {}
    reached = set()
    for name, (num_in, num_out) in target.linears.items():
        if not scope.reaches(name):
            continue
        if not scope.is_inside(name):
            raise _refused(f"its target_modules reach {name}, which is outside of what it says it adapts")
        reached.add(name.rsplit(".", 1)[-1])
        expected[f"base_model.model.{name}.lora_A.weight"] = (config.r, num_in)
        expected[f"base_model.model.{name}.lora_B.weight"] = (num_out, config.r)
        if config.use_dora:
            expected[f"base_model.model.{name}.lora_magnitude_vector"] = (num_out,)
    if unknown := sorted(set(config.target_modules) - reached):
        raise _refused(f"the base has no module named {unknown[0]} where it adapts one")
    return expected


def _check_tensors(path: Path, expected: Mapping[str, Shape]) -> None:
    tensors, data_start = _read_header(path)
    if missing := sorted(expected.keys() - tensors.keys()):
        raise _refused(f"{WEIGHTS_FILE} lacks {missing[0]}")
    if extra := sorted(tensors.keys() - expected.keys()):
        raise _refused(f"{WEIGHTS_FILE} holds {extra[0]}, which its configuration does not imply")
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=data_start)
    for name, tensor in tensors.items():
        if tensor.shape != expected[name]:
            raise _refused(f"{name} has the shape {list(tensor.shape)}, not {list(expected[name])}")
        if not _is_finite(data[tensor.start : tensor.end].view(tensor.dtype)):
            raise _refused(f"{name} holds a number that is not finite")


def _is_finite(values: "np.ndarray[Any, np.dtype[Any]]") -> bool:
    if values.dtype == _DTYPES["BF16"]:
        return bool(np.all(values & _BF16_EXPONENT != _BF16_EXPONENT))
    return bool(np.all(np.isfinite(values)))


def _read_header(path: Path) -> tuple[dict[str, _Tensor], int]:
    """Return the tensors of a safetensors file and where their data begins (format: 8-byte length, JSON, data)."""
    with path.open("rb") as stream:
        num_header_bytes = int.from_bytes(stream.read(8), "little")
        if not 2 <= num_header_bytes <= MAX_HEADER_BYTES:
            raise _refused(f"{WEIGHTS_FILE} has no usable header")
        header = stream.read(num_header_bytes)
    try:
        document = json.loads(header)
        tensors = {name: _tensor(entry) for name, entry in document.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _refused(f"{WEIGHTS_FILE} has a damaged header") from error
    data_start = 8 + num_header_bytes
    _check_offsets(tensors, path.stat().st_size - data_start)
    return tensors, data_start


def _tensor(entry: dict[str, object]) -> _Tensor:
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2):
        raise TypeError
    if not all(type(number) is int and number >= 0 for number in (*shape, *offsets)):
        raise TypeError
    return _Tensor(dtype=_DTYPES[str(entry["dtype"])], shape=tuple(shape), start=offsets[0], end=offsets[1])


def _check_offsets(tensors: Mapping[str, _Tensor], num_data_bytes: int) -> None:
    """Refuse gaps, overlaps, and sizes that disagree with the shapes."""
    position = 0
    for tensor in sorted(tensors.values(), key=lambda each: each.start):
        num_bytes = math.prod(tensor.shape) * tensor.dtype.itemsize
        if tensor.start != position or tensor.end - tensor.start != num_bytes:
            raise _refused(f"{WEIGHTS_FILE} has tensors whose places do not fit together")
        position = tensor.end
    if position != num_data_bytes:
        raise _refused(f"{WEIGHTS_FILE} is cut off, or holds more than its header says")


def _refused(reason: str) -> Invalid:
    return Invalid(f"The adapter cannot be served: {reason}.", code="adapter_incompatible")
