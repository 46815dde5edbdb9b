"""Keeping a lease: heartbeats from a thread of their own, for as long as the work lasts."""

import threading
import time
from types import TracebackType
from typing import Self

from core.db import DATABASE_AWAY, Database
from core.logs import get_logger
from models import leases
from models.leases import Claim
from models.states import WorkState

log = get_logger(__name__)


class Lease:
    """A lease that is kept alive inside a `with` block.

    `state` is what the row stood at when it was last heard of (this is how a cancel arrives). `lost` is set when the
    lease is gone, or would be before we could prolong it: then the holder kills its child and writes nothing more.
    """

    def __init__(self, database: Database, claim: Claim, *, lease_s: float, heartbeat_s: float) -> None:
        self.claim = claim
        self.state = WorkState.RUNNING
        self.lost = threading.Event()
        self._database = database
        self._lease_s = lease_s
        self._heartbeat_s = heartbeat_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{claim.work_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _keep(self) -> None:
        kept_until = time.monotonic() + self._lease_s
        while not self._ended.wait(self._heartbeat_s):
            asked_at = time.monotonic()
            try:
                with self._database.write() as session:
                    state = leases.heartbeat(session, self.claim, lease_s=self._lease_s)
            except DATABASE_AWAY as error:
                log.warning("heartbeat failed", work_id=self.claim.work_id, error=str(error))
                if time.monotonic() + self._heartbeat_s < kept_until:
                    continue
                state = None  # we cannot prolong it in time, so it is not ours any more
            if state is None:
                self.lost.set()
                return
            self.state = state
            kept_until = asked_at + self._lease_s
