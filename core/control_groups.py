"""The control groups that bound our memory, of both versions: a host may have mounted either."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryGroup:
    """Where one group says what it has; a file that is not there says nothing.

    Attributes:
        idle_files: The name in `stat` of pages of files that were not used for long; they can be taken back.
        events: Counts kills for want of memory as `oom_kill`.
    """

    limit: Path
    usage: Path
    stat: Path
    idle_files: str
    events: Path


def memory_groups(*, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> list[MemoryGroup]:
    """Return our control groups for memory and all around them, ours first."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            found += [_second(folder) for folder in _upwards(cgroups, name)]
        elif "memory" in controllers.split(","):
            found += [_first(folder) for folder in _upwards(cgroups / controllers, name)]
    return found


def _upwards(root: Path, name: str) -> Iterator[Path]:
    """Yield a group's folder and those around it; inside a container only the root may be there, and that is ours."""
    place = root / name.lstrip("/")
    yield from (each for each in (place, *place.parents) if each == root or root in each.parents)


def _first(folder: Path) -> MemoryGroup:
    return MemoryGroup(
        limit=folder / "memory.limit_in_bytes",
        usage=folder / "memory.usage_in_bytes",
        stat=folder / "memory.stat",
        idle_files="total_inactive_file",
        events=folder / "memory.oom_control",
    )


def _second(folder: Path) -> MemoryGroup:
    return MemoryGroup(
        limit=folder / "memory.max",
        usage=folder / "memory.current",
        stat=folder / "memory.stat",
        idle_files="inactive_file",
        events=folder / "memory.events",
    )
