"""Jobs as rows, for tests that need no request to make one."""

from sqlmodel import Session

from core.db import Database
from core.queue import Queue
from models import claims, event
from models.dataset import Dataset
from models.event import Item
from models.job import Job
from models.leases import Claim
from models.states import EventKind, Kind, WorkState
from models.work import Work


def add_job(session: Session, job_id: str = "job_1") -> str:
    """Add a job that waits, its data set, and the first item of its log."""
    dataset_id = f"ds_{job_id}"
    session.add(Work(id=dataset_id, kind=Kind.VALIDATION, queue=Queue.CPU, state=WorkState.SUCCEEDED))
    session.add(Work(id=job_id, kind=Kind.TRAINING, queue=Queue.GPU))
    session.flush()
    session.add(
        Dataset(
            id=dataset_id,
            name="n",
            filename="n.zip",
            container="zip",
            upload_sha256="0" * 64,
            upload_bytes=1,
            digest="d",
        )
    )
    session.flush()
    request = {"method": {}, "hyperparameters": {}, "image": {}, "resources": {}}
    session.add(
        Job(id=job_id, name="n", base_model="tiny", dataset_id=dataset_id, dataset_digest="d", seed=0, request=request)
    )
    session.flush()
    event.note(session, job_id, "Queued.", state=WorkState.QUEUED)
    return job_id


def run_job(database: Database, job_id: str = "job_1") -> Claim:
    """Add a job and claim it."""
    with database.write() as session:
        add_job(session, job_id)
        claim = claims.claim(session, Queue.GPU, worker_id="w", lease_s=600)
    assert claim is not None
    assert claim.work_id == job_id
    return claim


def say(database: Database, job_id: str, *messages: str, kind: EventKind = EventKind.LOG) -> None:
    """Append items to a log in one transaction."""
    with database.write() as session:
        event.append(session, job_id, [Item(kind=kind, message=message) for message in messages])
