"""One attempt as its kind of work sees it: whether it may go on, and the children that run under its lease."""

import threading
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
from worker.supervisor import Outcome, Recorder, supervise


class LeaseLost(Exception):
    """The lease ended before the work did: nothing may be written any more."""


class Interrupted(Exception):
    """The work left off because the worker was told to stop, or a cancel was asked; it is given back."""


class Attempt:
    """A lease and everything that may end the work before its time."""

    def __init__(self, lease: Lease, *, database: Database, settings: Settings, shutdown: threading.Event) -> None:
        self._lease = lease
        self._database = database
        self._settings = settings
        self._shutdown = shutdown

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
        if self._lease.lost.is_set():
            raise LeaseLost
        if self._shutdown.is_set() or self._lease.state is not WorkState.RUNNING:
            raise Interrupted

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
        stopping = Stopping(ask_s=self._settings.stop_ask_s, term_s=self._settings.stop_term_s)
        with (
            ChildProcess(module, spec=spec, staging=staging, with_hub_token=with_hub_token) as process,
            self._lease.killing(process.kill),
            _deadline(process, seconds),
        ):
            return supervise(
                process,
                self._lease,
                database=self._database,
                recorder=recorder,
                stopping=stopping,
                shutdown=self._shutdown,
            )


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
