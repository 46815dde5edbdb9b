"""Checkpoints between the child's staging folder and the store: kept while it trains, brought back for the next attempt."""

import queue
import shutil
import threading
from pathlib import Path

from core.db import DATABASE_AWAY
from core.errors import WorkFailed
from core.events import Checkpoint as Saved
from core.ids import Prefix, new_id
from core.links import link_or_copy
from core.logs import get_logger
from core.manifest import MANIFEST_FILE, FolderDamaged, parse_manifest, verify
from core.storage import Storage
from models import checkpoint as checkpoints
from models import event, leases
from models.checkpoint import Checkpoint
from models.event import Item
from models.removal import remove_below
from models.states import EventKind
from worker.attempt import Attempt, LeaseLost
from worker.kinds import Rooms

FOLDER = "checkpoints"  # of the child, in its staging folder
_KEPT = "kept"  # links to what is being stored; the child removes its own names
_PATIENCE_S = 1.0

log = get_logger(__name__)


class Keeper:
    """Stores the checkpoints of one attempt, one after the other, on a thread of its own: training does not wait.

    A checkpoint counts when its row is there, which is written with its item of the log under the fence, after every
    object of it was stored, and after all that the child said before it (`allow`): the attempt that goes on from it
    does not say it again. Of several that wait, only the newest is stored.
    """

    def __init__(self, rooms: Rooms, attempt: Attempt, staging: Path) -> None:
        self._rooms = rooms
        self._attempt = attempt
        self._storage = rooms.storage.guarded(attempt.hold)
        self._staging = staging
        self._waiting: queue.SimpleQueue[tuple[Saved, Path] | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._allowed_step = 0
        self._is_over = False
        self._thread = threading.Thread(target=self._keep, name=f"keeper-{attempt.claim.work_id}", daemon=True)
        self._thread.start()

    def offer(self, saved: Saved) -> None:
        """Take a checkpoint that lies whole in the staging folder. It is held by links, for the child removes its own."""
        source, held = self._staging / saved.path, self._staging / _KEPT / f"{saved.step}"
        try:
            shutil.copytree(source, held, copy_function=link_or_copy)
        except (OSError, shutil.Error) as error:  # newer ones have taken its place already
            log.info("checkpoint gone before it was stored", work_id=self._attempt.claim.work_id, error=str(error))
            shutil.rmtree(held, ignore_errors=True)
            return
        self._waiting.put((saved, held))

    def allow(self, step: int) -> None:
        """Let the checkpoints up to a step be named: the rows have what was said before."""
        with self._changed:
            self._allowed_step = step
            self._changed.notify()

    def settle(self) -> None:
        """Wait until what was offered and allowed is stored; call it once, at the end of the child."""
        self._waiting.put(None)
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join()

    def _keep(self) -> None:
        while (offered := self._newest()) is not None:
            saved, held = offered
            try:
                self._store(saved, held)
            except LeaseLost:
                return
            except (WorkFailed, FolderDamaged, OSError) as error:  # the next one may arrive; the run goes on
                why = getattr(error, "detail", str(error))
                message = f"The checkpoint of step {saved.step:,} could not be stored: {why}"
                warn(self._rooms, self._attempt, message)
            except Exception:  # the edge of the thread
                log.exception("keeper broke", work_id=self._attempt.claim.work_id)
            finally:
                shutil.rmtree(held, ignore_errors=True)

    def _newest(self) -> tuple[Saved, Path] | None:
        """Wait for a checkpoint and return the newest that is there; None: the child has ended, and nothing waits."""
        newest = self._waiting.get()
        while newest is not None and not self._waiting.empty():
            later = self._waiting.get()
            if later is None:
                self._waiting.put(None)
                break
            shutil.rmtree(newest[1], ignore_errors=True)
            newest = later
        return newest

    def _store(self, saved: Saved, held: Path) -> None:
        verify(held, saved.sha256)
        claim = self._attempt.claim
        row = Checkpoint(
            id=new_id(Prefix.CHECKPOINT),
            project=claim.project,
            job_id=claim.work_id,
            step=saved.step,
            attempt=claim.attempt,
            sha256=saved.sha256,
            size_bytes=saved.size_bytes,
        )
        self._storage.put_folder(row.prefix, held)
        with self._changed:
            self._changed.wait_for(lambda: self._allowed_step >= row.step or self._is_over)
        if self._allowed_step < row.step:
            return  # the lease was lost before the rows had it; the janitor finds the objects
        for old in self._name(row):
            remove_below(self._storage, old.prefix)

    def _name(self, row: Checkpoint) -> list[Checkpoint]:
        """Write the row; return those that it takes the place of. Waits for a database that is away.

        Raises:
            LeaseLost: Another worker may have the job.
        """
        data = {"step": row.step, "sha256": row.sha256, "size_bytes": row.size_bytes}
        item = Item(kind=EventKind.CHECKPOINT, level="info", message=f"Step {row.step:,} is saved.", data=data)
        claim = self._attempt.claim
        while True:
            self._attempt.hold()
            try:
                with self._rooms.database.write() as session:
                    if checkpoints.is_named(session, row.id):
                        return []  # only the answer was lost; the janitor finds the objects of older ones
                    if event.append(session, claim.work_id, [item], fence=claim.fence) is None:
                        raise LeaseLost
                    leases.gained(session, claim)
                    return checkpoints.add(session, row.model_copy())
            except DATABASE_AWAY as error:
                log.warning("a checkpoint waits", work_id=claim.work_id, error=str(error))
                self._attempt.lease.lost.wait(_PATIENCE_S)


def bring(rooms: Rooms, attempt: Attempt, staging: Path) -> int | None:
    """Put the newest checkpoint that is whole into the staging folder, under the name the child looks for.

    Returns:
        Its step; None when there is none.

    Raises:
        WorkFailed: The store is away: to begin again would cost more than to wait.
    """
    claim = attempt.claim
    with rooms.database.read() as session:
        rows = checkpoints.of_job(session, claim.work_id)
    for row in rows:
        folder = staging / FOLDER / f"step-{row.step:08}"
        try:
            _fetch(rooms.storage, row, folder, attempt)
        except FolderDamaged as damage:
            shutil.rmtree(folder, ignore_errors=True)
            warn(rooms, attempt, f"The checkpoint of step {row.step:,} is damaged and left out: {damage}")
        else:
            return row.step
    return None


def _fetch(storage: Storage, row: Checkpoint, folder: Path, attempt: Attempt) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of a try before, over a database that went away
    folder.mkdir(parents=True)
    key = f"{row.prefix}/{MANIFEST_FILE}"
    if not storage.has(key):
        raise FolderDamaged(f"The file {MANIFEST_FILE} is missing.")
    storage.fetch(key, folder / MANIFEST_FILE)
    for name in parse_manifest((folder / MANIFEST_FILE).read_bytes(), row.sha256).files:
        if not storage.has(f"{row.prefix}/{name}"):
            raise FolderDamaged(f"The file {name} is missing.")
        storage.fetch(f"{row.prefix}/{name}", folder / name, check=attempt.check)
    verify(folder, row.sha256)


def warn(rooms: Rooms, attempt: Attempt, message: str) -> None:
    """Write a warning into the job's log, if the lease still holds and the database answers."""
    log.warning(message, work_id=attempt.claim.work_id)
    item = Item(kind=EventKind.LOG, level="warning", message=message)
    try:
        with rooms.database.write() as session:
            event.append(session, attempt.claim.work_id, [item], fence=attempt.claim.fence)
    except DATABASE_AWAY as error:
        log.warning("the database is away", work_id=attempt.claim.work_id, error=str(error))
