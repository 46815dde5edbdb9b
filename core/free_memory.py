"""How much memory this machine, or our control group, still has. Torch-free."""

import os
from pathlib import Path

_MEMINFO, _CGROUPS, _MEMBERSHIP = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_STATM = Path("/proc/self/statm")
_PREFIX = "0::/"  # of control groups, version 2


def free_bytes(*, meminfo: Path = _MEMINFO, cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int | None:
    """Return what processes can still get before somebody is killed for it; None where nobody says.

    The smallest of what the kernel calls available and of what is left to each control group that we are in; pages of files
    can be taken back and count as free.
    """
    known = [each for each in (_available(meminfo), *_left(cgroups, membership)) if each is not None]
    return min(known, default=None)


def limit_bytes(*, cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Return what this machine has, or the smallest limit of a control group that we are in."""
    limits = [_lines(place / "memory.max") for place in _places(cgroups, membership)]
    known = [int(lines[0]) for lines in limits if lines and lines[0].isdigit()]
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


def _left(cgroups: Path, membership: Path) -> list[int | None]:
    """Return what is left to our group, and to each one around it."""
    return [_left_to(place) for place in _places(cgroups, membership)]


def _places(cgroups: Path, membership: Path) -> set[Path]:
    """Return the folders of our group and of all around it."""
    names = [line.removeprefix(_PREFIX) for line in _lines(membership) if line.startswith(_PREFIX)]
    return {
        place
        for name in names
        for place in (cgroups / name, *(cgroups / name).parents)
        if cgroups in (place, *place.parents)
    }


def _left_to(group: Path) -> int | None:
    (limit,), (used,) = _lines(group / "memory.max") or ["max"], _lines(group / "memory.current") or ["0"]
    if not limit.isdigit():
        return None
    of_files = next(
        (int(line.split()[1]) for line in _lines(group / "memory.stat") if line.startswith("inactive_file ")), 0
    )
    return max(0, int(limit) - int(used) + of_files)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
