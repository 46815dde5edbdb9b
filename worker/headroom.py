"""How much memory a worker has for one more piece of work, beside what runs on the same device. Without torch."""

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psutil
import pynvml

from core.free_memory import free_bytes, limit_bytes
from models.claims import Promise
from training.cards import CONTEXT_BYTES
from worker.capacity import num_gpus

T = TypeVar("T")


class HostHeadroom:
    """Headroom in the memory of this machine, for work on its processor."""

    name = f"{socket.gethostname()}, processor"

    @property
    def memory_bytes(self) -> int | None:
        """Return what there is in all."""
        return limit_bytes()

    def __call__(self, promises: Sequence[Promise]) -> int | None:
        """Return what is free and was not promised to work that has not taken it yet; None where nobody knows."""
        return left(free_bytes(), promises, [_held_by_children(each.pid) for each in promises])


class GpuHeadroom:
    """Headroom in the memory of the GPUs that the children of this worker see: of the one that has the least."""

    def __init__(self) -> None:
        self._visible = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
        told = _asked(lambda: [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in self._handles()])
        self.name = f"{socket.gethostname()}, GPU {', '.join(told or self._visible or ['all'])}"

    @property
    def memory_bytes(self) -> int | None:
        """Return what each has in all, but for what a process takes before its first tensor."""
        totals = _asked(lambda: [int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in self._handles()])
        return min(totals) - CONTEXT_BYTES if totals else None

    def __call__(self, promises: Sequence[Promise]) -> int | None:
        """Return what is free and was not promised to work that has not taken it yet; None where nobody knows."""
        rooms = _asked(lambda: [self._left(handle, promises) for handle in self._handles()])
        return max(0, min(rooms) - CONTEXT_BYTES) if rooms else None

    def _left(self, handle: Any, promises: Sequence[Promise]) -> int:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        known = {each.pid: each.usedGpuMemory or 0 for each in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        held = [sum(known.get(child.pid, 0) for child in _children(each.pid)) for each in promises]
        if promises and not any(held):  # inside a container the driver tells the pids of the host, or none: it is ours
            held = [int(memory.used), *([0] * (len(promises) - 1))]
        room = left(int(memory.free), promises, held)
        assert room is not None
        return room

    def _handles(self) -> list[Any]:
        if not self._visible:
            return [pynvml.nvmlDeviceGetHandleByIndex(at) for at in range(pynvml.nvmlDeviceGetCount())]
        return [
            pynvml.nvmlDeviceGetHandleByIndex(int(each)) if each.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(each)
            for each in self._visible
        ]


def _asked(question: Callable[[], T]) -> T | None:
    """Return what the driver says; None where there is none, or it does not say."""
    try:
        pynvml.nvmlInit()
        try:
            return question()
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def headroom_here() -> HostHeadroom | GpuHeadroom:
    """Return the headroom of the device that this worker's children compute on."""
    return GpuHeadroom() if num_gpus() else HostHeadroom()


def left(free: int | None, promises: Sequence[Promise], held: Sequence[int]) -> int | None:
    """Return what of free memory nobody was promised, where each holds some of its promise already."""
    if free is None:
        return None
    owed = sum(max(0, each.memory_bytes - has) for each, has in zip(promises, held, strict=True))
    return max(0, free - owed)


def _held_by_children(pid: int) -> int:
    """Return what the processes hold that a worker started; 0 when it is gone."""
    total = 0
    for child in _children(pid):
        try:
            told = child.memory_info()
            total += told.rss - told.shared  # pages of files count as free as well: the system can take them back
        except psutil.Error:  # it ended meanwhile
            continue
    return total


def _children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []
