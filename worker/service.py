"""What one worker process runs beside Celery: a slot, a heartbeat, sweeps, perhaps beat."""

import os
import platform
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from celery.beat import EmbeddedService

import core
from core.db import DATABASE_AWAY, Database
from core.ids import Prefix, new_id
from core.logs import get_logger
from core.queue import Doorbell, Queue
from core.settings import Settings
from core.storage import Storage
from core.wakeups import Publisher
from models import expiry, idempotency
from models import worker as workers
from models.claims import Offer, promises
from models.states import Kind
from models.worker import Worker
from worker.app import app
from worker.archive import archive_logs
from worker.capacity import device_name, num_gpus, precision
from worker.headroom import headroom_here
from worker.janitor import clean, forget_checkpoints
from worker.kinds import Rooms
from worker.runner import Slot
from worker.sources import Sources
from worker.staging import sweep_staging
from worker.training import Training
from worker.uploads import sweep_uploads
from worker.validation import Validation

SILENT_S = 3600.0
JANITOR_EVERY_S = 24 * 3600.0
JANITOR_FIRST_S = 600.0  # after the start, when there is other work to do

log = get_logger(__name__)


class Service:
    """The threads of one worker. `start` before Celery consumes, `stop` after it ended."""

    def __init__(self, queue: Queue, settings: Settings, *, beat: bool) -> None:
        settings.layout.make()
        self._settings = settings
        self._queue = queue
        self._database = Database(settings.resolved_database_url)
        self._storage = Storage.from_url(settings.resolved_storage_url, retry_s=settings.heartbeat_s)
        rooms = Rooms(self._database, self._storage, settings.layout)
        validation = Validation(rooms, Sources(settings), remote_images=settings.remote_images)
        offer = _offer(queue, settings)
        self._offer = offer
        self._row = _describe(queue, offer)
        self._publisher = Publisher(settings.redis_url)
        self.slot = Slot(
            queue,
            worker_id=self._row.id,
            database=self._database,
            settings=settings,
            wake=self._publisher.publish,
            offer=offer,
            kinds={
                Kind.VALIDATION: validation,
                Kind.TRAINING: Training(rooms, feature_cache_bytes=settings.feature_cache_bytes),
            },
        )
        self._expiry = expiry.Expiry(lease_s=settings.lease_s, confirm_s=2 * settings.heartbeat_s)
        self._sweeping = threading.Lock()
        self._janitor_due_s = time.monotonic() + JANITOR_FIRST_S
        self._left = threading.Event()
        # Two threads: to ring with a broker that hangs takes seconds, and a worker that does not beat looks dead.
        self._heart = self._thread("worker-heartbeat", self._beat, every_s=settings.heartbeat_s)
        self._sweeper = self._thread("worker-sweeper", self.sweep, every_s=settings.sweep_s)
        self._tidier = self._thread("worker-tidier", self._tidy, every_s=settings.sweep_s)
        # Beat as a thread: a process of its own would outlive a worker that is killed.
        self._periodic = EmbeddedService(app, thread=True, scheduler_cls="celery.beat:Scheduler") if beat else None

    def start(self) -> None:
        """Start the threads; they need no broker."""
        self._heart.start()
        self._sweeper.start()
        self._tidier.start()
        self.slot.start()
        if self._periodic is not None:
            self._periodic.start()

    def stop(self) -> None:
        """Give running work back, then leave the table of workers."""
        self.slot.stop()
        if self._periodic is not None and self._periodic.is_alive():  # one that never started never stops
            self._periodic.service.stop(wait=False)  # it may be waiting for a broker; it dies with the process
        if self.slot.is_alive():
            self.slot.join()
        self._publisher.close()
        self._left.set()
        if self._heart.is_alive():
            self._heart.join()
        with suppress(*DATABASE_AWAY), self._database.write() as session:
            workers.forget(session, self._row.id)
        self._database.close()

    def sweep(self) -> None:
        """Take back expired leases, ring once for every queue that has work waiting, forget what is old.

        Beat asks for it over the broker; a thread of every worker does it without.
        """
        if not self._sweeping.acquire(blocking=False):  # the other of the two is at it
            return
        try:
            self._sweep()
        finally:
            self._sweeping.release()

    def _sweep(self) -> None:
        with self._database.write() as session:
            over = self._expiry.over(session)
            swept = expiry.sweep(session, max_attempts=self._settings.max_attempts, over=over)
            workers.forget_silent(session, silent_s=SILENT_S)
            idempotency.forget_old(session)
        if swept.expired:
            log.warning("leases expired", work_ids=swept.expired)
        doorbell = Doorbell(app)
        for queue, work_id in swept.waiting.items():
            doorbell.ring(queue, work_id)

    def _tidy(self) -> None:
        """Remove what is over, on a thread of its own: a store may be slow, and leases must be taken back meanwhile."""
        sweep_uploads(self._database, self._storage)
        archive_logs(self._database, self._storage, keep_days=self._settings.log_keep_days)
        sweep_staging(self._database, self._settings.layout)
        forget_checkpoints(self._database, self._storage, keep_days=self._settings.checkpoint_keep_days)
        if self._queue is Queue.CPU and time.monotonic() >= self._janitor_due_s:
            self._janitor_due_s = time.monotonic() + JANITOR_EVERY_S
            clean(self._database, self._storage, grace_s=self._settings.janitor_grace_s)

    def _beat(self) -> None:
        with self._database.write() as session:
            room = self._offer.headroom(promises(session, self._queue, self._offer.device))
            self._row.headroom_bytes = None if room is None else room.beside_bytes
            workers.beat(session, self._row)

    def _thread(self, name: str, act: Callable[[], None], *, every_s: float) -> threading.Thread:
        """Return a thread that does something again and again, whatever it raises, until the worker leaves."""

        def repeat() -> None:
            while True:
                try:
                    act()
                except DATABASE_AWAY as error:
                    log.warning("the database is away", thread=name, error=str(error))
                except Exception:  # the edge of the thread: a worker that no longer beats looks dead
                    log.exception("thread broke", thread=name)
                if self._left.wait(every_s):
                    return

        return threading.Thread(target=repeat, name=name, daemon=True)


def _offer(queue: Queue, settings: Settings) -> Offer:
    """Return what this worker can take; only training is planned, so only its workers look at memory."""
    if queue is not Queue.GPU:
        return Offer(gpus=num_gpus(), classes=settings.worker_class_names)
    headroom = headroom_here()
    return Offer(
        gpus=num_gpus(),
        classes=settings.worker_class_names,
        device=headroom.name,
        memory_bytes=headroom.memory_bytes,
        headroom=headroom,
    )


def _describe(queue: Queue, offer: Offer) -> Worker:
    return Worker(
        id=new_id(Prefix.WORKER),
        queue=queue,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=core.VERSION,
        capacity={
            "slots": 1,
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "gpus": offer.gpus,
            "classes": sorted(offer.classes),
            "device": device_name(),
            "memory_bytes": offer.memory_bytes,
            "precision": precision(),
        },
        device=offer.device,
        started_at_s=0.0,
        heartbeat_at_s=0.0,
    )
