"""Jobs driven as a user and as a worker would, without a child process."""

from core.queue import Queue
from models import claims, control, leases
from models.checkpoint import Checkpoint
from models.states import WorkState
from models.work import Work

BODY = {"base_model": "tiny", "dataset": "ds_ready"}
FAILURE = {"code": "internal", "detail": "It broke.", "remedy": "Mend it.", "retryable": False}


def create(client, **changes) -> str:
    answer = client.post("/jobs", json=BODY | changes)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def claim(database, **options):
    with database.write() as session:
        return claims.claim(session, Queue.GPU, worker_id="w", lease_s=60, **options)


def finish(database, claimed, target=WorkState.SUCCEEDED) -> bool:
    with database.write() as session:
        failure = FAILURE if target is WorkState.FAILED else None
        return leases.finish(session, claimed, target, failure=failure)


def bring_to(client, database, state: WorkState, **changes) -> str:
    """Make a job and bring it to a state on the ways that there are."""
    job_id = create(client, **changes)
    if state is WorkState.QUEUED:
        return job_id
    claimed = claim(database)
    assert claimed.work_id == job_id
    with database.write() as session:
        if state in (WorkState.PAUSING, WorkState.PAUSED):
            assert control.pause(session, job_id)
        elif state in (WorkState.CANCELLING, WorkState.CANCELLED):
            assert control.cancel(session, job_id)
        if state is WorkState.PAUSED:
            assert leases.pause(session, claimed)
        elif state in (WorkState.SUCCEEDED, WorkState.FAILED, WorkState.CANCELLED):
            assert leases.finish(session, claimed, state, failure=FAILURE if state is WorkState.FAILED else None)
    return job_id


def look(database, job_id) -> Work:
    with database.read() as session:
        return session.get_one(Work, job_id)


def keep_checkpoint(database, storage, job_id, *, step=5, sha256="c" * 64) -> str:
    """Store a checkpoint of a job; return the key of its object."""
    row = Checkpoint(id=f"ckpt_{job_id[4:]}_{step}", job_id=job_id, step=step, attempt=1, sha256=sha256, size_bytes=1)
    key = f"{row.prefix}/weights"
    storage.put_bytes(key, b"x")
    with database.write() as session:
        session.add(row)
    return key
