"""What is left of a device, on a processor and behind a driver that is not there."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pynvml
import pytest

from models.device_memory import Promise, Room
from worker import headroom
from worker.headroom import GpuHeadroom, HostHeadroom

MB = 10**6


def room(beside_mb, alone_mb):
    return Room(beside_bytes=beside_mb * MB, alone_bytes=alone_mb * MB)


@pytest.mark.parametrize(
    ("promised", "held", "beside", "alone"),
    [
        ([], [], 100, 100),
        ([30], [0], 70, 100),
        ([30], [20], 90, 120),
        ([30], [50], 100, 150),
        ([80, 80], [0, 10], 0, 110),
    ],
)
def test_what_was_promised_and_is_not_yet_held_is_taken_from_what_is_free(promised, held, beside, alone):
    promises = [Promise(pid=1, memory_bytes=each) for each in promised]
    assert Room.of(100, promises, held) == Room(beside_bytes=beside, alone_bytes=alone)


def test_what_the_children_of_a_worker_hold_counts_as_taken(monkeypatch):
    monkeypatch.setattr(headroom, "free_bytes", lambda: 1000 * MB)
    promised = [Promise(pid=os.getpid(), memory_bytes=900 * MB)]
    before = HostHeadroom()(promised)
    script = "x = bytearray(120_000_000); print('held', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        child.stdout.readline()
        during = HostHeadroom()(promised)
        child.communicate(b"\n")
    for name in ("beside_bytes", "alone_bytes"):
        assert 110 * MB < getattr(during, name) - getattr(before, name) < 200 * MB


def test_without_a_driver_nobody_knows_what_a_gpu_has(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    gpu = GpuHeadroom()
    assert gpu.name.endswith("GPU 1")
    assert (gpu.memory_bytes, gpu([])) == (None, None)


@pytest.fixture
def driver(monkeypatch):
    """A driver that says how much of each GPU is free and which processes hold how much; its names are NVML's own."""

    def driver(free_mb, processes):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-7d,GPU-9e")
        running = [SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in processes]
        for name, answer in {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlDeviceGetUUID": lambda handle: handle,
            "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(
                total=16_000 * MB, free=free_mb[handle] * MB, used=(16_000 - free_mb[handle]) * MB
            ),
            "nvmlDeviceGetComputeRunningProcesses": lambda _: running,
        }.items():
            assert hasattr(pynvml, name)
            monkeypatch.setattr(pynvml, name, answer)
        return GpuHeadroom()

    return driver


def test_the_gpu_that_children_see_first_counts_less_a_context(driver):
    gpu = driver({"GPU-7d": 12_000, "GPU-9e": 9_000}, [])
    assert gpu.name.endswith("GPU GPU-7d")
    assert (gpu.memory_bytes, gpu([])) == (15_400 * MB, room(11_400, 11_400))


NOBODY = 2**22 + 1  # a pid that no process has


@pytest.mark.parametrize("processes", [[(os.getpid(), 2_000 * MB)], [(NOBODY, 2_000 * MB)], [(1, None)]])
def test_what_a_run_holds_of_its_promise_is_not_owed_whoever_the_driver_says_holds_it(driver, processes):
    gpu = driver({"GPU-7d": 14_000, "GPU-9e": 0}, processes)
    assert gpu([Promise(pid=os.getppid(), memory_bytes=5_000 * MB)]) == room(14_000 - 3_000 - 600, 14_000 + 2_000 - 600)


@pytest.mark.parametrize(
    ("promised_mb", "alone_mb"),
    [
        (1_400, 14_000 + 2_000 - 600),  # a context is not in the promise
        (1_000, 14_000 + 1_600 - 600),  # what is more is a stranger's
        (0, 14_000 + 2_000 - 600),  # nobody knows how much it will hold
    ],
)
def test_where_nobody_says_who_holds_what_of_a_gpu_ours_is_as_much_as_was_promised(driver, promised_mb, alone_mb):
    gpu = driver({"GPU-7d": 14_000, "GPU-9e": 0}, [(1, None)])
    assert gpu([Promise(pid=os.getppid(), memory_bytes=promised_mb * MB)]) == room(14_000 - 600, alone_mb)


def test_what_others_hold_of_a_gpu_is_nobodys_promise(driver):
    gpu = driver({"GPU-7d": 10_000, "GPU-9e": 0}, [(1, 6_000 * MB)])
    assert gpu([Promise(pid=NOBODY, memory_bytes=5_000 * MB)]) == room(10_000 - 5_000 - 600, 10_000 - 600)
