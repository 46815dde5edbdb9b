"""Jobs whose worker holds less than they would like: a real worker and its children in a control group with a limit."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from benchmarks.memory_grid.group import Group
from core.db import Database
from core.ids import Prefix, new_id
from core.queue import Queue
from core.settings import Settings
from core.storage import Storage
from models import event
from models.claims import Offer
from models.dataset import Dataset, image_key
from models.job import Job
from models.states import TERMINAL, Kind, WorkState
from models.work import Work, attempts_of
from ops.migrate import upgrade
from vlm.conversation import IMAGES_FOLDER, RECORDS_FILE
from worker.headroom import headroom_here
from worker.kinds import Rooms
from worker.runner import Slot
from worker.training import Training

SHARES = (1.0, 0.8, 0.6)
_POLL_S, _PATIENCE_S = 0.05, 1200.0
_DATASET = "ds_budget"


class Outcome(BaseModel):
    """How one job ended.

    Attributes:
        share: Of what it held without a limit, above an empty process; None: it had none.
        held_bytes: At most, above an empty process.
        kills: Of its processes, for want of memory.
        choices: What was chosen for memory's sake.
        losses: Of its steps.
    """

    share: float | None
    state: WorkState
    held_bytes: int
    attempts: int
    kills: int
    choices: list[str]
    losses: list[float]


def run(group: Path, base: Path, dataset: Path, scratch: Path, request: dict[str, Any]) -> list[Outcome]:
    """Run a job without a limit, then with less and less of what that held; in a process that does nothing else."""
    here = Group(group)
    here.join()
    service = _Service(scratch, base, dataset, here)
    empty_bytes = service.empty_bytes()
    free = service.finish(request, share=None)
    limited = []
    for share in SHARES:
        here.drop_files()
        here.limit(here.used_bytes + empty_bytes + round(share * free.held_bytes))
        limited.append(service.finish(request, share=share))
        here.limit(None)
    service.close()
    return [free, *limited]


def _until(is_over: Callable[[], bool]) -> Iterator[None]:
    """Yield again and again until something is over.

    Raises:
        TimeoutError: It takes far too long: the job waits for memory that it will not get.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while not is_over():
        if time.monotonic() > deadline:
            raise TimeoutError
        yield
        time.sleep(_POLL_S)


class _Service:
    """A worker's slot over a database and a store of its own."""

    def __init__(self, scratch: Path, base: Path, dataset: Path, group: Group) -> None:
        self._settings = Settings(data_dir=scratch, retry_s=0.1)
        self._settings.layout.make()
        self._group = group
        self._base = base
        self._database = Database(self._settings.resolved_database_url)
        upgrade(self._database)
        storage = Storage.from_url(self._settings.resolved_storage_url)
        self._store(storage, dataset)
        headroom = headroom_here()
        rooms = Rooms(self._database, storage, self._settings.layout)
        self._slot = Slot(
            Queue.GPU,
            worker_id=new_id(Prefix.WORKER),
            database=self._database,
            settings=self._settings,
            kinds={Kind.TRAINING: Training(rooms, feature_cache_bytes=2**32)},
            offer=Offer(device=headroom.name, memory_bytes=headroom.memory_bytes, headroom=headroom),
        )
        self._slot.start()

    def empty_bytes(self) -> int:
        """Return what the group holds more while a child has loaded its libraries and nothing else."""
        self._group.drop_files()
        before, most = self._group.used_bytes, 0
        work_id = self._submit({"resources": {"memory_gb": 0.01}})  # refused when it has planned
        for _ in _until(lambda: self._look(work_id).state in TERMINAL):
            most = max(most, self._group.used_bytes)
        return most - before

    def finish(self, request: dict[str, Any], *, share: float | None) -> Outcome:
        """Run a job to its end."""
        kills = self._group.kills
        work_id = self._submit(request)
        for _ in _until(lambda: self._look(work_id).state in TERMINAL):
            pass
        with self._database.read() as session:
            job, items = session.get_one(Job, work_id), event.page(session, work_id, after=0, limit=10_000)
            attempts = attempts_of(session, work_id)
        measured = job.measured or {}
        return Outcome(
            share=share,
            state=self._look(work_id).state,
            held_bytes=measured.get("peak_memory_bytes", 0) - measured.get("empty_memory_bytes", 0),
            attempts=len(attempts),
            kills=self._group.kills - kills,
            choices=(job.plan or {}).get("choices", []),
            losses=[item.data["loss"] for item in items if item.data and "loss" in item.data],
        )

    def close(self) -> None:
        """Stop the slot."""
        self._slot.stop()
        self._slot.join()
        self._database.close()

    def _look(self, work_id: str) -> Work:
        with self._database.read() as session:
            return session.get_one(Work, work_id)

    def _submit(self, request: dict[str, Any]) -> str:
        asked = {"method": {}, "hyperparameters": {}, "image": {}, "resources": {}} | request
        work = Work(id=new_id(Prefix.JOB), kind=Kind.TRAINING, queue=Queue.GPU)
        job = Job(
            id=work.id,
            name="budget",
            base_model=str(self._base),
            dataset_id=_DATASET,
            dataset_digest="budget",
            seed=7,
            request=asked,
        )
        with self._database.write() as session:
            session.add(work)
            session.flush()
            session.add(job)
        return job.id

    def _store(self, storage: Storage, folder: Path) -> None:
        work = Work(id=_DATASET, kind=Kind.VALIDATION, queue=Queue.CPU, state=WorkState.SUCCEEDED)
        row = Dataset(id=_DATASET, name="budget", filename="none", digest="budget")
        storage.put_file(row.records_key("budget"), folder / RECORDS_FILE)
        for image in (folder / IMAGES_FOLDER).iterdir():
            storage.put_file(image_key(row.project, image.name), image)
        with self._database.write() as session:
            session.add(work)
            session.flush()
            session.add(row)
