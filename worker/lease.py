"""Keeping a lease: heartbeats from a thread of their own, for as long as the work lasts."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

from core.db import DATABASE_AWAY, Database
from core.logs import get_logger
from models import leases
from models.leases import Claim
from models.states import WorkState

log = get_logger(__name__)


class Tethered(Protocol):
    """A child that lives as long as a lease."""

    def prolong(self, until: float) -> None:
        """Let it live until then, on the monotonic clock."""

    def kill(self) -> None:
        """End it at once."""


class Lease:
    """A lease that is kept alive inside a `with` block.

    `state` is what the row stood at when it was last heard of (this is how a cancel arrives). `lost` is set when the
    lease is gone, or will be within one heartbeat: then the holder writes nothing more, and its child is killed. A
    holder that was frozen may run before the thread that sets it: who is about to write asks `is_held`.

    One thread prolongs the lease, another watches the clock: a database that hangs would hold the first for longer
    than the lease lasts, while another worker runs the same job on another device.

    `asked_at`: when it was asked for, on the monotonic clock, for it is not longer than from there; None: just now.
    """

    def __init__(
        self, database: Database, claim: Claim, *, lease_s: float, heartbeat_s: float, asked_at: float | None = None
    ) -> None:
        self.claim = claim
        self.state = WorkState.RUNNING
        self.lost = threading.Event()
        self._database = database
        self._lease_s = lease_s
        self._heartbeat_s = heartbeat_s
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._child: Tethered | None = None
        self._kept_until = (time.monotonic() if asked_at is None else asked_at) + lease_s
        name = f"lease-{claim.work_id}"
        self._threads = (
            threading.Thread(target=self._keep, name=name, daemon=True),
            threading.Thread(target=self._watch, name=f"{name}-watch", daemon=True),
        )

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @property
    def until(self) -> float:
        """Return when the holder gives the lease up unless it is prolonged, on the monotonic clock."""
        return self._kept_until - self._heartbeat_s

    @property
    def is_held(self) -> bool:
        """Tell whether nobody else can have the lease at this moment, whatever the threads have noticed so far."""
        return not self.lost.is_set() and time.monotonic() < self.until

    @contextmanager
    def tethering(self, child: Tethered) -> Iterator[None]:
        """Let a child live as long as the lease is kept, as long as this block lasts."""
        self._set_child(child)
        if self.lost.is_set():
            child.kill()
        try:
            yield
        finally:
            self._set_child(None)

    def _set_child(self, child: Tethered | None) -> None:
        with self._lock:
            self._child = child

    def _keep(self) -> None:
        while not self._ended.wait(self._heartbeat_s) and not self.lost.is_set():
            asked_at = time.monotonic()
            try:
                with self._database.write() as session:
                    state = leases.heartbeat(session, self.claim, lease_s=self._lease_s)
            except DATABASE_AWAY as error:
                log.warning("heartbeat failed", work_id=self.claim.work_id, error=str(error))
                continue
            if state is None:
                self._lose()
                return
            self.state = state
            self._kept_until = asked_at + self._lease_s
            with self._lock:
                if self._child is not None:
                    self._child.prolong(self.until)

    def _watch(self) -> None:
        """Give the lease up one heartbeat before it ends."""
        while (left := self.until - time.monotonic()) > 0:
            if self._ended.wait(left):
                return
        self._lose()

    def _lose(self) -> None:
        self.lost.set()
        with self._lock:
            if self._child is not None:
                self._child.kill()
