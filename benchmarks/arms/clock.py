"""The hands of a run: when each epoch ended, each step's loss, the memory of the process, and the operations counted."""

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import TrainerCallback

_ATTENTION: Any = torch.ops.aten


class EpochClock(TrainerCallback):
    """Notes when the first step began and each epoch ended, and the loss of each step, of a stock trainer.

    Attributes:
        marks_s: The clock at the first step and at the end of each epoch.
        losses: As logged.
    """

    def __init__(self) -> None:
        self.marks_s: list[float] = []
        self.losses: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the first epoch."""
        self.marks_s.append(time.perf_counter())

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """End an epoch; the next one begins now."""
        self.marks_s.append(time.perf_counter())

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        """Keep the loss of a step."""
        if logs is not None and "loss" in logs:
            self.losses.append(logs["loss"])

    @property
    def epochs_s(self) -> list[float]:
        """Return the seconds of each epoch."""
        return [end - begin for begin, end in itertools.pairwise(self.marks_s)]


def peak_bytes() -> int:
    """Return the most that this process held; on a GPU, the most that was allocated there."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    lines = Path("/proc/self/status").read_text().splitlines()  # `ru_maxrss` would count the parent before the fork
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


@contextmanager
def counting(flops: list[int], *, is_on: bool) -> Iterator[None]:
    """Append the operations of what runs inside, or nothing when it is off.

    torch 2.14 has no formula for the attention kernel of the CPU, whose shapes are those of the others, and none for the
    4-bit product of bitsandbytes, which hides the plain one inside.
    """
    if not is_on:
        yield
        return
    mode = FlopCounterMode(
        display=False,
        custom_mapping={
            _ATTENTION._scaled_dot_product_flash_attention_for_cpu: _attention,  # noqa: SLF001 - aten's own names
            _ATTENTION._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,  # noqa: SLF001
            torch.ops.bitsandbytes.gemm_4bit: _product_4bit,
        },
    )
    with mode:
        yield
    flops.append(int(mode.get_total_flops()))


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))  # type: ignore[no-untyped-call]


def _product_4bit(inputs: Any, _packed: Any, weight: Any, *_: Any, **__: Any) -> int:
    rows: int = math.prod(inputs)
    return 2 * rows * int(weight[0])
