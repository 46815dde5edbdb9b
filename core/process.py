"""Processes that die with their parent, and stop when they are told to."""

import ctypes
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from typing import NoReturn

PARENT_PID_VARIABLE = "LENSMITH_PARENT_PID"
_PR_SET_PDEATHSIG = 1
_M_MMAP_THRESHOLD = -3  # of malloc.h
_LARGE_BYTES = 128 * 1024


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends (Linux; elsewhere: nothing).

    The parent puts its process id in `LENSMITH_PARENT_PID`. If it is gone already, exit at once. The *thread* that
    started us counts, so a parent starts children from a thread that lives as long as they do (facts: reliability 1).
    """
    expected = os.environ.pop(PARENT_PID_VARIABLE, None)
    if expected is None:
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(expected):
        raise SystemExit(1)


def calm_threads() -> None:
    """Let OpenMP's threads sleep at barriers instead of spinning; call it before torch is imported.

    A spinning thread waits for one that another process has displaced: on two busy cores a training step took 15 to
    22 s with spinning, and 2.4 to 3.6 s without.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def compact_memory() -> None:
    """Let glibc give back large pieces of memory as soon as they are freed, instead of keeping them for the next ones.

    Its `memalign`, by which torch allocates, seldom finds a use for what it keeps (glibc bug 14581, mended in 2.38): runs of
    SmolVLM-256M's widths held 0.69 to 0.75 of what they held without, and were 0.6 times as fast, because every piece is
    zeroed anew. Elsewhere: nothing.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def rank() -> int:
    """Return which of the processes of one piece of work this is, as torchrun says; 0 is the only one or the first."""
    return int(os.environ.get("RANK", "0"))


def is_launched() -> bool:
    """Tell whether this process is one of several that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def use_gpus(first: int, *, count: int) -> None:
    """Let this process see `count` of the worker's GPUs, from the `first` on; call it before torch is imported.

    transformers wraps a model in `DataParallel` as soon as it sees two, and TRL 1.16 refuses that: on a machine with two
    GPUs no job would start. One worker per GPU sets `CUDA_VISIBLE_DEVICES` for its own.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(first + count)] if visible is None else visible.split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[first : first + count])
    if is_launched():
        os.environ["LOCAL_RANK"] = "0"  # accelerate takes the GPU of this number, and each process sees one


def bound_address_space(size_bytes: int) -> None:
    """Let this process map no more than this, or less where its hard limit is lower."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = size_bytes if hard == resource.RLIM_INFINITY else min(size_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def signal_group(pid: int, signum: signal.Signals) -> None:
    """Send a signal to a whole process group; one that is gone is no error."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signum)


def free_port() -> int:
    """Return a loopback port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def leave(status: int) -> NoReturn:
    """End this process at once, with nothing left to say.

    torch takes seconds to leave, and the thread that holds a child to its lease is gone by then; and a thread of gloo
    that is still there aborts a process that has done its work.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
