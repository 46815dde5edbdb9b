"""Whether the system killed for want of memory: the kernel counts it, of our control group where there is one."""

from pathlib import Path

from core.control_groups import memory_groups

_WHOLE_MACHINE = Path("/proc/vmstat")


def memory_kills() -> int | None:
    """Return how many processes were killed for want of memory since the start; None where nobody counts."""
    for path in (*(group.events for group in memory_groups()), _WHOLE_MACHINE):
        count = _count(path)
        if count is not None:
            return count
    return None


def _count(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
    return int(found[0]) if found else None
