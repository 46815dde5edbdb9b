"""How much memory this machine, or our control group, still has. Torch-free."""

import os
from pathlib import Path

from core.control_groups import CGROUPS, MEMBERSHIP, MemoryGroup, memory_groups

_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")
_NO_LIMIT = 2**60


def free_bytes(*, meminfo: Path = _MEMINFO, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int | None:
    """Return what processes can still get before somebody is killed for it; None where nobody says.

    The smallest of what the kernel calls available and of what is left to each control group that we are in; pages of files
    can be taken back and count as free.
    """
    left = map(_left_to, memory_groups(cgroups=cgroups, membership=membership))
    return min((each for each in (_available(meminfo), *left) if each is not None), default=None)


def limit_bytes(*, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return what this machine has, or the smallest limit of a control group that we are in."""
    known = [each for each in map(_limit, memory_groups(cgroups=cgroups, membership=membership)) if each is not None]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *known])


def resident_bytes(*, statm: Path = _STATM) -> int:
    """Return what this process holds itself, pages of files included; 0 where nobody says."""
    lines = _lines(statm)
    return int(lines[0].split()[1]) * os.sysconf("SC_PAGE_SIZE") if lines else 0


def _available(meminfo: Path) -> int | None:
    for line in _lines(meminfo):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _limit(group: MemoryGroup) -> int | None:
    """Return the limit of a group; None without one, which version 1 says with a number that no machine has."""
    lines = _lines(group.limit)
    limit = int(lines[0]) if lines and lines[0].isdigit() else None
    return None if limit is None or limit >= _NO_LIMIT else limit


def _left_to(group: MemoryGroup) -> int | None:
    limit = _limit(group)
    if limit is None:
        return None
    (used,) = _lines(group.usage) or ["0"]
    stat = dict(line.split() for line in _lines(group.stat) if len(line.split()) == 2)
    return max(0, limit - int(used) + int(stat.get(group.idle_files, 0)))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
