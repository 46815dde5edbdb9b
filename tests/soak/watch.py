"""Looks at the processes of this machine all the time: no job may have two children that live at the same time."""

import re
import threading
import time
from pathlib import Path
from typing import Self

from tests.processes import command_of, everyone, is_alive

LOOK_S = 0.15
CONFIRM_S = 1.0  # a large process that was killed needs a moment to be gone
_ATTEMPT = re.compile(r"training\.run .*/staging/(?P<job>\w+)-(?P<fence>\d+)/spec\.json")


class Watch:
    """A thread that looks until the `with` block ends. `seen` counts the attempts that had a child."""

    def __init__(self, data_dir: Path) -> None:
        self._mark = str(data_dir)
        self._ended = threading.Event()
        self._together: dict[tuple[str, frozenset[int]], float] = {}
        self._wrong: list[str] = []
        self.seen: set[tuple[str, int]] = set()
        self._thread = threading.Thread(target=self._look_often, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Raise if a job ran twice at the same time."""
        assert self._thread.is_alive(), "nobody looks at the processes any more"
        assert not self._wrong, f"runs_once_at_a_time: {self._wrong}"

    def _look_often(self) -> None:
        while not self._ended.wait(LOOK_S):
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        alive: dict[str, set[int]] = {}
        for job, fence in self._children():
            self.seen.add((job, fence))
            alive.setdefault(job, set()).add(fence)
        together = {(job, frozenset(fences)) for job, fences in alive.items() if len(fences) > 1}
        self._together = {both: self._together.get(both, now) for both in together}
        for (job, fences), since in self._together.items():
            if now - since > CONFIRM_S:
                self._wrong.append(f"the attempts {sorted(fences)} of {job} run at the same time")

    def _children(self) -> list[tuple[str, int]]:
        found = []
        for pid in everyone():
            command = command_of(pid)
            match = _ATTEMPT.search(command) if self._mark in command else None
            if match is not None and is_alive(pid):
                found.append((match["job"], int(match["fence"])))
        return found
