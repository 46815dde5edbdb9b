"""What the machine can do: the precision to compute in, and its name in words."""

import platform
from typing import Literal

import torch

from core.events import Emitter
from core.free_memory import free_bytes, resident_bytes
from vlm.loading import DTYPES, preferred_dtype
from vlm.precision import Precision


def has_gpu() -> bool:
    """Tell whether this process sees a GPU."""
    return torch.cuda.is_available()


def choose_precision(asked: Precision | Literal["auto"], events: Emitter) -> Precision:
    """Return what to compute in: what was asked, or what the hardware really does (`vlm.loading`).

    fp16 needs a GPU's gradient scaler; on a CPU it becomes fp32, with a warning that the user sees.
    """
    if asked == "auto":
        best = preferred_dtype()
        return next(precision for precision, dtype in DTYPES.items() if dtype == best)
    if asked == "fp16" and not has_gpu():
        events.log("hyperparameters.precision fp16 needs a GPU; this run computes in fp32.", level="warning")
        return "fp32"
    return asked


def describe() -> str:
    """Return the hardware in words."""
    if has_gpu():
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads"


def memory_bytes() -> int | None:
    """Return what this run may hold at most, as things stand: on its GPU what is free, else this process and what is free.

    None where nobody says.
    """
    if has_gpu():
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    free = free_bytes()
    return None if free is None else free + resident_bytes()
