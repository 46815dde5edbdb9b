"""One attempt as its kind of work sees it: whether it may go on, and the children that run under its lease."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.db import Database
from core.settings import Settings
from models.leases import Claim
from models.states import WorkState
from worker.arrivals import Overdue
from worker.child import ChildProcess, Stopping
from worker.lease import Lease
from worker.memory_kills import memory_kills
from worker.recorder import Recorder
from worker.supervisor import Failed, Killed, Outcome, Stalled, Wake, memory_failure, nobody, supervise


class LeaseLost(Exception):
    """The lease ended before the work did: nothing may be written any more."""


class Interrupted(Exception):
    """The work left off because the worker was told to stop, or a cancel was asked; it is given back."""


class Attempt:
    """A lease and everything that may end the work before its time.

    Attributes:
        resumed_step: Of the checkpoint that a job goes on from; None: it begins at its first step.
    """

    def __init__(
        self,
        lease: Lease,
        *,
        database: Database,
        settings: Settings,
        shutdown: threading.Event,
        wake: Wake = nobody,
    ) -> None:
        self._lease = lease
        self._wake = wake
        self._database = database
        self._settings = settings
        self._shutdown = shutdown
        self.resumed_step: int | None = None

    @property
    def lease(self) -> Lease:
        """Return the lease that everything stands on."""
        return self._lease

    @property
    def settings(self) -> Settings:
        """Return the worker's settings."""
        return self._settings

    @property
    def claim(self) -> Claim:
        """Return what was claimed."""
        return self._lease.claim

    def check(self) -> None:
        """Raise unless the work should go on. Ask often while you wait for somebody else.

        Raises:
            LeaseLost: another worker may have the work by now.
            Interrupted: the worker was told to stop, or a cancel was asked.
        """
        self.hold()
        if self._shutdown.is_set() or self._lease.state is not WorkState.RUNNING:
            raise Interrupted

    def hold(self) -> None:
        """Raise unless nobody else can have the work at this moment; asked right before anything is stored.

        Raises:
            LeaseLost: another worker may have it.
        """
        if not self._lease.is_held:
            raise LeaseLost

    def run(
        self,
        module: str,
        *,
        spec: dict[str, Any],
        staging: Path,
        recorder: Recorder,
        with_hub_token: bool,
        seconds: float | None = None,
    ) -> Outcome:
        """Run a child to its end. Call it from a thread that lives as long as the child.

        Args:
            module: whose `__main__` it is.
            spec: what it is told.
            staging: the folder that it writes to.
            recorder: who writes what it says.
            with_hub_token: whether it sees the token of the Hub.
            seconds: how long it may take; None: as long as the lease is kept.

        Raises:
            Overdue: it did not end within `seconds`, and was killed.
        """
        settings = self._settings
        stopping = Stopping(ask_s=settings.stop_ask_s, term_s=settings.stop_term_s, pause_s=settings.stop_pause_s)
        kills_before = memory_kills()
        with (
            ChildProcess(
                module, spec=spec, staging=staging, with_hub_token=with_hub_token, lease_until=self._lease.until
            ) as process,
            self._lease.tethering(process),
            _deadline(process, seconds),
            _watching(process, settings.stall_s) as is_stalled,
        ):
            try:
                outcome = supervise(
                    process,
                    self._lease,
                    database=self._database,
                    recorder=recorder,
                    stopping=stopping,
                    shutdown=self._shutdown,
                    wake=self._wake,
                )
            finally:
                recorder.settle()
        if isinstance(outcome, Killed) and is_stalled.is_set():
            return Stalled(settings.stall_s)
        if isinstance(outcome, Killed) and memory_kills() != kills_before:
            return Failed(memory_failure())
        return outcome


@contextmanager
def _watching(process: ChildProcess, stall_s: float) -> Iterator[threading.Event]:
    """Kill a child that says nothing for so long, and tell by the event that it was this; 0: it may."""
    is_stalled, has_ended = threading.Event(), threading.Event()

    def watch() -> None:
        while not has_ended.wait(max(0.0, process.heard_at + stall_s - time.monotonic())):
            if time.monotonic() - process.heard_at >= stall_s:
                is_stalled.set()
                process.kill()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    if stall_s:
        watcher.start()
    try:
        yield is_stalled
    finally:
        has_ended.set()
        if stall_s:
            watcher.join()


@contextmanager
def _deadline(process: ChildProcess, seconds: float | None) -> Iterator[None]:
    if seconds is None:
        yield
        return
    over = threading.Event()

    def end() -> None:
        over.set()
        process.kill()

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if over.is_set():
        raise Overdue
