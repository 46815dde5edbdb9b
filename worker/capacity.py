"""What this machine has for work to ask for, found without torch."""

import os
from pathlib import Path

from core.free_memory import limit_bytes
from vlm.precision import Precision

_GPUS = Path("/proc/driver/nvidia/gpus")
_DEVICES = Path("/dev")
_CPUINFO = Path("/proc/cpuinfo")


def num_gpus(*, driver: Path = _GPUS, devices: Path = _DEVICES) -> int:
    """Return how many GPUs the children of this process may use: those made visible, else those of the driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        # CUDA ignores what stands behind a name that it does not know.
        return next((at for at, name in enumerate(names) if name in ("", "-1")), len(names))
    if driver.is_dir():
        return sum(1 for _ in driver.iterdir())
    return sum(1 for device in devices.glob("nvidia[0-9]*") if device.name.removeprefix("nvidia").isdigit())


def device_name(*, driver: Path = _GPUS) -> str:
    """Return what the children of this process compute on, in words that are the same for machines that are alike.

    A control group with less memory is another machine.
    """
    if num_gpus(driver=driver):
        return " + ".join(sorted(_models(driver))) or "GPU"
    return f"CPU, {os.cpu_count()} cores, {limit_bytes() / 2**30:.0f} GiB"


def precision(*, cpuinfo: Path = _CPUINFO) -> Precision:
    """Return what the processor computes in best; a GPU's precision follows from its model."""
    try:
        flags = next(line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")).split()
    except (OSError, StopIteration):
        return "fp32"
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "fp32"


def _models(driver: Path) -> set[str]:
    """Return the names of all GPUs, as their driver says them."""
    fields = [line.partition(":") for path in driver.glob("*/information") for line in path.read_text().splitlines()]
    return {value.strip() for name, _, value in fields if name.strip() == "Model"}
