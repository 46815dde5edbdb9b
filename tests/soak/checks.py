"""What has to be true of every job and of what is left behind, however the servers were hurt."""

import hashlib
from typing import Any

from sqlmodel import select

from core.storage import Storage
from models import checkpoint as checkpoints
from models import event
from models.adapter import Adapter
from models.states import WorkState
from models.work import Work, attempts_of
from tests.soak.load import Followed
from tests.soak.servers import Servers

_OF_THE_CLOCK = frozenset({"examples_per_s", "eta_s"})
MANY = 100_000


def outcome(servers: Servers, job_id: str) -> tuple[list[dict[str, Any]], str]:
    """Return the curve of a job and the sha256 of its weights."""
    with servers.database.read() as session:
        items = event.page(session, job_id, after=0, limit=MANY)
        made = session.exec(select(Adapter).where(Adapter.job_id == job_id)).all()
    assert len(made) == 1, f"{job_id} has {len(made)} adapters"
    curve = [
        {name: value for name, value in (item.data or {}).items() if name not in _OF_THE_CLOCK}
        for item in items
        if item.kind == "metric"
    ]
    storage = Storage.from_url(servers.settings.resolved_storage_url)
    weights = storage.read(f"{made[0].prefix}/adapter_model.safetensors")
    return curve, hashlib.sha256(weights).hexdigest()


def check_job(servers: Servers, job: Followed, expected: tuple[list[dict[str, Any]], str]) -> None:
    """Check one job that has ended."""
    if job.error is not None:
        raise AssertionError(f"{job.id}: its follower broke") from job.error
    assert job.id is not None
    with servers.database.read() as session:
        work = session.get_one(Work, job.id)
        attempts = attempts_of(session, job.id)
        items = event.page(session, job.id, after=0, limit=MANY)
    assert job.ended == work.state == WorkState.SUCCEEDED, f"{job.id} ended as {work.state}: {work.failure}"
    numbers = list(range(1, work.last_seq + 1))
    assert [item.seq for item in items] == numbers, f"{job.id}: its log has gaps or doubles"
    assert [item["seq"] for item in job.items] == numbers, f"{job.id}: its follower missed or doubled items"
    assert [item["message"] for item in job.items] == [item.message for item in items], f"{job.id}: other items"
    assert work.fence == work.attempt == len(attempts), f"{job.id}: fence {work.fence}, attempts {len(attempts)}"
    assert all(each.outcome is not None for each in attempts), f"{job.id}: an attempt is still open"
    assert [each.outcome for each in attempts].count("succeeded") == 1, f"{job.id}: succeeded more than once"
    assert (work.lease_owner, work.lease_until_s) == (None, None), f"{job.id}: still leased"
    curve, weights = outcome(servers, job.id)
    steps = [(figures["step"], "eval_loss" in figures) for figures in curve]
    assert steps == [(each["step"], "eval_loss" in each) for each in expected[0]], f"{job.id}: steps {steps}"
    assert curve == expected[0], f"{job.id}: another curve"
    assert weights == expected[1], f"{job.id}: other weights"


def check_storage(servers: Servers) -> list[str]:
    """Check that whatever a row names is there whole; return what no row names, but for temporary objects."""
    storage = Storage.from_url(servers.settings.resolved_storage_url)
    with servers.database.read() as session:
        named = [(each.prefix, each.sha256) for each in session.exec(select(Adapter))]
        named += [(each.prefix, each.sha256) for each in session.exec(select(checkpoints.Checkpoint))]
    for prefix, sha256 in named:
        manifest = storage.read(f"{prefix}/manifest.json")
        assert hashlib.sha256(manifest).hexdigest() == sha256, f"{prefix} is damaged"
    prefixes = {prefix for prefix, _ in named}
    kinds = ("/adapters/", "/checkpoints/")
    return [
        key
        for key in storage.keys("default")
        if any(kind in key for kind in kinds) and key.rpartition("/")[0] not in prefixes
    ]
