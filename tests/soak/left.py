"""What is left when every job has ended: nothing that runs, nothing that is held, no object without a row."""

import hashlib
from collections.abc import Callable
from typing import Any

from sqlmodel import col, select

from core.errors import WorkFailed
from core.manifest import MANIFEST_FILE, FolderDamaged, parse_manifest
from core.storage import Storage
from models.adapter import Adapter
from models.checkpoint import Checkpoint
from models.dataset import Dataset, images_prefix
from models.job import Job
from models.states import LEASED
from models.work import DEFAULT_PROJECT, Work
from tests.soak.load import Load
from tests.soak.servers import Servers, until

SOON_S = 30.0  # a sweep comes every second


def check_left(servers: Servers, load: Load) -> str:
    """Check what is left while the servers still run; return in a sentence what had to be cleaned."""
    wanted: dict[str, Callable[[], list[Any]]] = {
        "children that run": lambda: [pid for pids in servers.children().values() for pid in pids],
        "leases": lambda: _leased(servers),
        "staging folders": lambda: [path.name for path in servers.settings.layout.staging_root.iterdir()],
    }
    for what, look in wanted.items():
        _none(what, look)
    with servers.database.read() as session:
        made = set(session.exec(select(Job.id)))
    known = {job.id for job in load.jobs}
    assert made == known, f"jobs that nobody submitted, or that are gone: {sorted(map(str, made ^ known))}"
    storage = Storage.from_url(servers.settings.resolved_storage_url)
    before = _unnamed(servers, storage)
    servers.run_once("worker.janitor", LENSMITH_JANITOR_GRACE_S="0")  # nobody writes any more
    _none("objects that no row names, or rows whose objects are not whole,", lambda: _unnamed(servers, storage))
    return f"{len(before)} objects for the janitor: {before[:5]}"


def _none(what: str, look: Callable[[], list[Any]]) -> None:
    """Wait until there is nothing; say what there was when it stays."""
    try:
        until(lambda: not look(), what=what, within_s=SOON_S)
    except AssertionError:
        left = look()
        assert not left, f"{what} are left {SOON_S:g} s after every job has ended: {left}"


def _leased(servers: Servers) -> list[str]:
    with servers.database.read() as session:
        held = col(Work.state).in_(LEASED) | col(Work.lease_owner).is_not(None)
        return list(session.exec(select(Work.id).where(held)))


def _unnamed(servers: Servers, storage: Storage) -> list[str]:
    """Return the keys of objects without a row, and what is wrong with those that have one."""
    try:
        named, below = _named(servers, storage)
    except (FolderDamaged, WorkFailed) as error:  # a sweep may remove an old checkpoint while we look
        return [str(error)]
    return [key for key in storage.keys("") if key not in named and not key.startswith(below)]


def _named(servers: Servers, storage: Storage) -> tuple[set[str], tuple[str, ...]]:
    """Return every key that a row leads to, each found whole, and the prefixes of data sets, which end before the faults."""
    with servers.database.read() as session:
        folders = {(each.prefix, each.sha256) for each in session.exec(select(Adapter))}
        folders |= {(each.prefix, each.sha256) for each in session.exec(select(Checkpoint))}
        datasets = [f"{each.prefix}/" for each in session.exec(select(Dataset))]
    keys = set()
    for prefix, sha256 in folders:
        manifest = parse_manifest(storage.read(f"{prefix}/{MANIFEST_FILE}"), sha256)
        keys |= {f"{prefix}/{name}" for name in (MANIFEST_FILE, *manifest.files)}
        for name, entry in manifest.files.items():
            found = hashlib.sha256(storage.read(f"{prefix}/{name}")).hexdigest()
            if found != entry.sha256:
                raise FolderDamaged(f"{prefix}/{name} is not what its manifest says")
    return keys, (*datasets, f"{images_prefix(DEFAULT_PROJECT)}/")
