"""One slot of a worker: claim, run to the end, write the end; again.

The thread of a slot lives as long as the worker, because its children die with the thread that started them.
"""

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from core.db import DATABASE_AWAY, Database
from core.errors import FailureCode, WorkFailed
from core.events import Failure, Phase
from core.logs import get_logger
from core.queue import Queue
from core.settings import Settings
from models import claims, expiry, leases
from models.claims import NOTHING_SPECIAL, Offer
from models.leases import Claim
from models.states import Kind, WorkState
from worker.attempt import Attempt, Interrupted, LeaseLost
from worker.kinds import Apply, WorkKind, nothing
from worker.lease import Lease
from worker.supervisor import Ended, Failed, Fenced, Killed, Outcome, Stalled, Succeeded, Wake, nobody

PATIENCE_S = 1.0

T = TypeVar("T")

log = get_logger(__name__)


class Slot(threading.Thread):
    """Runs one piece of work at a time, woken by the doorbell or by its own look into SQL every few seconds."""

    def __init__(
        self,
        queue: Queue,
        *,
        worker_id: str,
        database: Database,
        settings: Settings,
        kinds: Mapping[Kind, WorkKind],
        wake: Wake = nobody,
        offer: Offer = NOTHING_SPECIAL,
    ) -> None:
        super().__init__(name=f"slot-{queue}", daemon=True)
        self._wake = wake
        self.bell = threading.Event()
        self.shutdown = threading.Event()
        self._queue = queue
        self._worker_id = worker_id
        self._database = database
        self._settings = settings
        self._kinds = kinds
        self._offer = offer

    def stop(self) -> None:
        """Stop after the present work was given back; `join` waits for it."""
        self.shutdown.set()
        self.bell.set()

    def run(self) -> None:
        """Loop until stopped. Nothing that one piece of work does ends the slot."""
        while not self.shutdown.is_set():
            self.bell.clear()
            try:
                asked_at = time.monotonic()
                claim = self._claim()
                if claim is not None:
                    self._run(claim, asked_at)
                    continue
            except DATABASE_AWAY as error:
                log.warning("the database is away", error=str(error))
            except Exception:  # the edge of the thread: its lease runs out, and the sweep takes the work back
                log.exception("slot broke")
            self.bell.wait(self._settings.poll_s)

    def _claim(self) -> Claim | None:
        with self._database.write() as session:
            return claims.claim(
                session,
                self._queue,
                worker_id=self._worker_id,
                lease_s=self._settings.lease_s,
                offer=self._offer,
                project_bound=self._settings.project_jobs if self._queue is Queue.GPU else 0,
            )

    def _run(self, claim: Claim, asked_at: float) -> None:
        log.info("work started", work_id=claim.work_id, kind=claim.kind, attempt=claim.attempt)
        self._wake(claim.work_id)
        staging = self._settings.layout.staging(claim.work_id, claim.fence)
        lease = Lease(
            self._database,
            claim,
            lease_s=self._settings.lease_s,
            heartbeat_s=self._settings.heartbeat_s,
            asked_at=asked_at,
        )
        try:
            with lease:
                ended = self._attempt(lease, staging)
        except LeaseLost:
            ended = "fenced"
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            self._wake(claim.work_id)
        log.info("work ended", work_id=claim.work_id, outcome=ended)

    def _attempt(self, lease: Lease, staging: Path) -> str:
        kind = self._kinds[lease.claim.kind]
        attempt = Attempt(
            lease, database=self._database, settings=self._settings, shutdown=self.shutdown, wake=self._wake
        )
        try:
            staging.mkdir(parents=True)
            return self._end(kind, attempt, staging, self._supervise(kind, attempt, staging))
        except Interrupted:
            return self._patiently(lease, lambda: self._give_back(lease.claim))
        except WorkFailed as failed:
            failure = Failure(code=failed.code, detail=failed.detail, remedy=failed.remedy, retryable=failed.retryable)
        except LeaseLost:
            raise
        except Exception as error:  # a slot outlives the work that breaks it
            log.exception("work broke", work_id=lease.claim.work_id)
            failure = Failure(
                code=FailureCode.STORAGE if isinstance(error, OSError) else FailureCode.INTERNAL,
                detail=f"{type(error).__name__}: {error}"[:2000],
                remedy="The worker's log has the details; make it again when the cause is gone.",
                retryable=True,
            )
        return self._fail(lease, nothing, failure)

    def _supervise(self, kind: WorkKind, attempt: Attempt, staging: Path) -> Outcome:
        spec = self._patiently(attempt.lease, lambda: kind.prepare(attempt, staging))
        token = kind.may_read_hub(spec)
        recorder = self._patiently(attempt.lease, lambda: kind.recorder(attempt, staging))
        return attempt.run(kind.module, spec=spec, staging=staging, recorder=recorder, with_hub_token=token)

    def _end(self, kind: WorkKind, attempt: Attempt, staging: Path, outcome: Outcome) -> str:
        lease = attempt.lease
        match outcome:
            case Succeeded(data=data):
                if not self._patiently(lease, lambda: self._set_phase(lease.claim, Phase.PUBLISHING)):
                    raise LeaseLost
                apply = self._patiently(lease, lambda: kind.publish(attempt, staging, data))
                return self._finish(lease, WorkState.SUCCEEDED, apply)
            case Failed(failure=failure):
                is_relieved = self._is_relieved(kind, attempt, failure)
                apply = self._patiently(lease, lambda: kind.salvage(attempt, staging))
                return self._fail(lease, apply, failure, is_relieved=is_relieved)
            case Killed():
                return self._patiently(lease, lambda: self._lose(lease.claim, "Its process was killed (SIGKILL)"))
            case Stalled(seconds=seconds):
                said = f"Its process went on with nothing for {seconds:,.0f} s and was killed"
                return self._patiently(lease, lambda: self._lose(lease.claim, said, code=FailureCode.TIMED_OUT))
            case Ended():
                return self._patiently(lease, lambda: self._give_back(lease.claim))
            case Fenced():
                raise LeaseLost

    def _is_relieved(self, kind: WorkKind, attempt: Attempt, failure: Failure) -> bool:
        """Tell whether it ran out of memory, and the next attempt takes less; that ends, because less can be had only so often."""
        if failure.code is not FailureCode.OUT_OF_MEMORY or not failure.retryable:
            return False
        return self._patiently(attempt.lease, lambda: kind.relieve(attempt))

    def _fail(self, lease: Lease, apply: Apply, failure: Failure, *, is_relieved: bool = False) -> str:
        """End as failed; what may pass by itself, because it is not the work's fault, gets another attempt first."""
        document = failure.model_dump(mode="json", exclude={"type"})
        settings = self._settings

        def queue() -> bool:
            with self._database.write() as session:
                return leases.try_again(
                    session,
                    lease.claim,
                    document,
                    max_attempts=None if is_relieved else settings.max_attempts,
                    retry_s=0.0 if is_relieved else settings.retry_s,
                )

        may_pass = is_relieved or failure.code is FailureCode.STORAGE
        if may_pass and failure.retryable and self._patiently(lease, queue):
            return "queued again"
        return self._finish(lease, WorkState.FAILED, apply, document)

    def _finish(self, lease: Lease, target: WorkState, apply: Apply, document: dict[str, Any] | None = None) -> str:
        """Write the end and its rows in one transaction; a cancel or a pause that came first wins."""

        def write() -> bool:
            with self._database.write() as session:
                ended = leases.finish(session, lease.claim, target, failure=document)
                if ended:
                    apply(session)
                return ended

        if self._patiently(lease, write):
            return target.value
        return self._patiently(lease, lambda: self._give_back(lease.claim))

    def _give_back(self, claim: Claim) -> str:
        """End as cancelled or paused when that was asked, else put the work back in its queue; it costs no attempt."""
        for _ in range(2):  # a cancel may come between the two
            with self._database.write() as session:
                if leases.finish(session, claim, WorkState.CANCELLED):
                    return WorkState.CANCELLED.value
                if leases.pause(session, claim):
                    return WorkState.PAUSED.value
                if leases.give_back(session, claim, reason="the worker was told to stop."):
                    return "given back"
        raise LeaseLost

    def _lose(self, claim: Claim, what: str, *, code: FailureCode = FailureCode.WORKER_LOST) -> str:
        """Give up an attempt whose child was killed; the next one goes on from the last checkpoint."""
        with self._database.write() as session:
            came_to = expiry.lose(session, claim, max_attempts=self._settings.max_attempts, what=what, code=code)
        if came_to is None:
            raise LeaseLost
        return f"{code}, {came_to}"

    def _set_phase(self, claim: Claim, phase: Phase) -> bool:
        with self._database.write() as session:
            return leases.set_phase(session, claim, phase)

    def _patiently(self, lease: Lease, call: Callable[[], T]) -> T:
        """Try again while the database is away and the lease lasts: a run of hours hangs on this one write."""
        while True:
            try:
                return call()
            except DATABASE_AWAY as error:
                log.warning("the database is away", work_id=lease.claim.work_id, error=str(error))
                if lease.lost.wait(PATIENCE_S):
                    raise LeaseLost from error
