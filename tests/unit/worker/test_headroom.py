"""What is left of a device, on a processor and behind a driver that is not there."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pynvml
import pytest

from models.claims import Promise
from worker import headroom
from worker.headroom import GpuHeadroom, HostHeadroom, left

MB = 10**6


@pytest.mark.parametrize(
    ("free", "promised", "held", "rest"),
    [
        (100, [], [], 100),
        (100, [30], [0], 70),
        (100, [30], [20], 90),
        (100, [30], [50], 100),
        (100, [80, 80], [0, 0], 0),
        (None, [30], [0], None),
    ],
)
def test_what_was_promised_and_is_not_yet_held_is_taken_from_what_is_free(free, promised, held, rest):
    assert left(free, [Promise(pid=1, memory_bytes=each) for each in promised], held) == rest


def test_what_the_children_of_a_worker_hold_counts_as_taken(monkeypatch):
    monkeypatch.setattr(headroom, "free_bytes", lambda: 1000 * MB)
    script = "x = bytearray(120_000_000); print('held', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        child.stdout.readline()
        owed = 1000 * MB - HostHeadroom()([Promise(pid=os.getpid(), memory_bytes=500 * MB)])
        child.stdin.close()
    assert 200 * MB < owed < 380 * MB
    assert HostHeadroom()([Promise(pid=os.getpid(), memory_bytes=500 * MB)]) == 500 * MB


def test_without_a_driver_nobody_knows_what_a_gpu_has(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    gpu = GpuHeadroom()
    assert gpu.name.endswith("GPU 1")
    assert (gpu.memory_bytes, gpu([])) == (None, None)


def test_a_driver_is_asked_for_the_first_visible_gpu(monkeypatch):
    """What NVML answers is made up here; that it is asked so, its own signatures say (`pynvml`)."""
    asked = []

    memory = SimpleNamespace(total=16_000 * MB, free=9_000 * MB)
    process = SimpleNamespace(pid=os.getpid(), usedGpuMemory=2_000 * MB)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-7d,GPU-9e")
    for name, answer in {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: asked.append(uuid) or "handle",
        "nvmlDeviceGetMemoryInfo": lambda _: memory,
        "nvmlDeviceGetComputeRunningProcesses": lambda _: [process],
    }.items():
        assert hasattr(pynvml, name)
        monkeypatch.setattr(pynvml, name, answer)
    parent = os.getppid()
    gpu = GpuHeadroom()
    assert gpu.memory_bytes == 16_000 * MB
    assert gpu([Promise(pid=parent, memory_bytes=5_000 * MB)]) == 9_000 * MB - 3_000 * MB
    assert set(asked) == {"GPU-7d"}
