"""How much memory a worker has for one more piece of work, beside what runs on the same device. Without torch."""

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psutil
import pynvml

from core.free_memory import free_bytes, limit_bytes
from models.device_memory import Promise, Room
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

    def __call__(self, promises: Sequence[Promise]) -> Room | None:
        """Return what more work may hold; None where nobody knows."""
        free = free_bytes()
        return None if free is None else Room.of(free, promises, [_held_by_children(each.pid) for each in promises])


class GpuHeadroom:
    """Headroom in the memory of the GPU that the children of this worker see first: most runs have one, and it is that."""

    def __init__(self) -> None:
        self._first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
        told = _asked(lambda: str(pynvml.nvmlDeviceGetUUID(self._handle())))
        self.name = f"{socket.gethostname()}, GPU {told or self._first}"

    @property
    def memory_bytes(self) -> int | None:
        """Return what there is in all, but for what a process takes before its first tensor."""
        total = _asked(lambda: int(pynvml.nvmlDeviceGetMemoryInfo(self._handle()).total))
        return None if total is None else total - CONTEXT_BYTES

    def __call__(self, promises: Sequence[Promise]) -> Room | None:
        """Return what more work may hold; None where nobody knows."""
        room = _asked(lambda: self._room(promises))
        return None if room is None else room.less(CONTEXT_BYTES)

    def _room(self, promises: Sequence[Promise]) -> Room:
        handle = self._handle()
        memory, running = (
            pynvml.nvmlDeviceGetMemoryInfo(handle),
            pynvml.nvmlDeviceGetComputeRunningProcesses(handle),
        )
        known = {each.pid: each.usedGpuMemory or 0 for each in running}
        held = [sum(known.get(child.pid, 0) for child in _children(each.pid)) for each in promises]
        if promises and not any(held) and any(map(_is_elsewhere, running)):
            # inside a container the driver tells pids of the host, and perhaps no figures: what is used is ours, as far as
            # that was promised
            together = Promise(pid=0, memory_bytes=sum(each.memory_bytes for each in promises))
            used = int(memory.used)
            if all(each.memory_bytes for each in promises):
                used = min(used, together.memory_bytes + len(promises) * CONTEXT_BYTES)
            return Room.of(int(memory.free), [together], [used])
        return Room.of(int(memory.free), promises, held)

    def _handle(self) -> Any:
        if self._first.isdigit():
            return pynvml.nvmlDeviceGetHandleByIndex(int(self._first))
        return pynvml.nvmlDeviceGetHandleByUUID(self._first)


def _is_elsewhere(process: Any) -> bool:
    """Tell whether a process that the driver names is not to be found by that name here."""
    return process.usedGpuMemory is None or not psutil.pid_exists(process.pid)


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
