"""The watch over the parts: until all are up, a part that ends explains itself; after that, it is started again."""

import time
from dataclasses import dataclass, field

import httpx2
from rich.console import Console

from ops.processes import Running
from ops.signals import Stop

START_S = 120.0
LOOK_S = 0.1
WATCH_S = 0.5

MAX_RESTARTS = 5
WITHIN_S = 600.0


@dataclass(slots=True)
class Restarts:
    """How often one part was started again, and how long to wait before the next time."""

    at: list[float] = field(default_factory=list)

    def next_delay(self, now: float) -> float | None:
        """Return the seconds to wait, doubling from 1; None when the part may not be started again."""
        self.at = [moment for moment in self.at if now - moment < WITHIN_S]
        return None if len(self.at) >= MAX_RESTARTS else 2.0 ** len(self.at)


@dataclass(slots=True)
class _Watched:
    """A part with its restarts; `due_at` is set while it waits for one."""

    entry: Running
    restarts: Restarts = field(default_factory=Restarts)
    due_at: float | None = None


def wait_until_up(address: str, running: list[Running], console: Console, stop: Stop) -> bool:
    """Print one line per part when it is up; False: one of them ended, or the user wants to stop."""
    waiting = {entry.part.name: entry for entry in running}
    deadline = time.monotonic() + START_S
    with httpx2.Client(base_url=address, timeout=5.0, trust_env=False) as client:
        while waiting and not stop.is_set():
            ended = next((entry for entry in running if entry.has_ended), None)
            if ended is not None:
                ended.explain(console)
                return False
            if time.monotonic() > deadline:
                names = ", ".join(waiting)
                console.print(f"[red]✗[/red] not up after {START_S:.0f} s: {names}; see {running[0].log.parent}")
                return False
            well = _up_parts(client)
            for name in [name for name in waiting if name in well]:
                console.print(f"[green]✓[/green] {name:<11} {waiting.pop(name).part.about}")
            stop.wait(LOOK_S)
    return not stop.is_set()


def _up_parts(client: httpx2.Client) -> set[str]:
    """Return the parts that `/readyz` calls well, under the names that they have here."""
    try:
        parts = client.get("/readyz").json()["parts"]
    except (httpx2.HTTPError, ValueError, KeyError):
        return set()
    well = {name for name, part in parts.items() if part["ok"]}
    return well | {"api"} | ({"valkey"} if "broker" in well else set())


def watch(running: list[Running], console: Console, stop: Stop) -> int:
    """Start again what ends, until the user stops everything (0) or one part ends too often (1)."""
    watched = [_Watched(entry=entry) for entry in running]
    while not stop.wait(WATCH_S):
        for part in watched:
            if part.entry.has_ended and not _revive(part, console, time.monotonic()):
                return 1
    return 0


def _revive(part: _Watched, console: Console, now: float) -> bool:
    """Start an ended part again when its wait is over; False: it has ended too often."""
    if part.due_at is None:
        delay = part.restarts.next_delay(now)
        if delay is None:
            how_often = f", {MAX_RESTARTS + 1} times within {WITHIN_S / 60:.0f} minutes; everything is stopped"
            part.entry.explain(console, how_often=how_often)
            return False
        part.due_at = now + delay
    if now >= part.due_at:
        part.due_at = None
        part.restarts.at.append(now)
        status, number = part.entry.process.returncode, len(part.restarts.at)
        part.entry.start()
        name = part.entry.part.name
        console.print(f"{name} ended with status {status}; started again ({number} of {MAX_RESTARTS})")
    return True
