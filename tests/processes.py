"""Looking at the processes of this machine, which may end while they are looked at."""

from contextlib import suppress
from pathlib import Path

GONE = (FileNotFoundError, ProcessLookupError)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except GONE:
        return False


def children_of(pid: int) -> list[int]:
    """Return the ids of the processes that a process has started, whichever thread of it did."""
    found: list[int] = []
    with suppress(*GONE):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(*GONE):  # or only this thread has ended
                found += map(int, (thread / "children").read_text().split())
    return found


def below(pid: int) -> list[int]:
    """Return the ids of what a process started, and of what that started."""
    children = children_of(pid)
    return children + [deeper for child in children for deeper in below(child)]


def everyone() -> list[int]:
    """Return the ids of all processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def command_of(pid: int) -> str:
    """Return the command of a process, as one line; of one that is gone, nothing."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except GONE:
        return ""
