"""Objects that no row names are removed, and told: what a crash, a store that was away, or a deletion left behind.

`python -m worker.janitor` does it once, and with `--dry-run` only tells.

An object is removed only when it is older than the grace, because whatever is on its way to its row is younger: it was
written, or written anew, not longer ago than half of it (`worker.validation`). The rows are read after the objects were
listed, and each object is looked at once more as it goes.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa

from core import logs
from core.clock import utc_now
from core.db import Database
from core.errors import WorkFailed
from core.settings import settings
from core.storage import STAGING_PREFIX, Entry, Storage
from models import checkpoint as checkpoints
from models import named
from models.dataset import Dataset
from models.removal import remove_below
from vlm.conversation import RECORDS_FILE, read_image_names

AT_ONCE = 20  # checkpoints in one sweep

log = logs.get_logger(__name__)


@dataclass(slots=True)
class Report:
    """What was removed, or would be, by kind."""

    objects: Counter[str] = field(default_factory=Counter)
    size_bytes: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, size_bytes: int) -> None:
        """Count one object."""
        self.objects[kind] += 1
        self.size_bytes[kind] += size_bytes

    def lines(self) -> list[str]:
        """Return it for people."""
        return [
            f"{kind:<12} {count:>8,} objects {self.size_bytes[kind] / 1e6:>12,.1f} MB"
            for kind, count in sorted(self.objects.items())
        ] or ["nothing: rows name every object that is old enough"]


def clean(database: Database, storage: Storage, *, grace_s: float, dry_run: bool = False) -> Report:
    """Remove what no row names and return what that was; a store that is away ends it, and the next day goes on."""
    report, before = Report(), utc_now() - timedelta(seconds=grace_s)
    try:
        for kind, entry in _unnamed(database, storage, before):
            if dry_run or storage.delete_old(entry.key, before=before):
                report.add(kind, entry.size_bytes)
        for path, size_bytes in _unfinished(storage, before):
            if not dry_run:
                path.unlink(missing_ok=True)
            report.add(STAGING_PREFIX, size_bytes)
    except WorkFailed as failed:
        log.warning("the janitor stopped", error=failed.detail)
    if report.objects:
        log.info("janitor", dry_run=dry_run, objects=dict(report.objects), size_bytes=dict(report.size_bytes))
    return report


def forget_checkpoints(database: Database, storage: Storage, *, keep_days: float) -> None:
    """Remove the checkpoints that no attempt will need, the rows first: a row must not name what is gone."""
    with database.write() as session:
        old = checkpoints.superfluous(session, ended_before=utc_now() - timedelta(days=keep_days), limit=AT_ONCE)
        checkpoints.forget(session, old)
    for checkpoint in old:
        remove_below(storage, checkpoint.prefix)


def _unnamed(database: Database, storage: Storage, before: datetime) -> Iterator[tuple[str, Entry]]:
    old = [entry for entry in storage.entries("") if entry.last_modified < before]
    with database.read() as session:
        prefixes, living = named.prefixes(session), named.datasets_of(session)
    images = [entry for entry in old if _kind(entry.key) == "images"]
    shown = _image_names(storage, living) if images else None
    for entry in old:
        kind = _kind(entry.key)
        if kind == "images":
            if shown is not None and tuple(entry.key.split("/")[::2]) not in shown:
                yield kind, entry
        elif kind == STAGING_PREFIX or (kind and not _is_named(entry.key, prefixes)):
            yield kind, entry


def _kind(key: str) -> str:
    """Return what an object is, by its key; empty: nothing of ours, and left alone."""
    parts = key.split("/")
    if parts[0] == STAGING_PREFIX:
        return STAGING_PREFIX
    kind = parts[1] if len(parts) > 2 else ""
    return kind if kind in {"adapters", "datasets", "images", "jobs", "uploads"} else ""


def _is_named(key: str, prefixes: set[str]) -> bool:
    parts = key.split("/")
    return any("/".join(parts[:length]) in prefixes for length in range(3, len(parts) + 1))


def _image_names(storage: Storage, living: list[Dataset]) -> frozenset[tuple[str, str]] | None:
    """Return the project and the sha256 of every image that the table of a data set names; None: a table is unreadable."""
    found: set[tuple[str, str]] = set()
    for dataset in living:
        if dataset.digest is not None:
            try:
                with tempfile.TemporaryDirectory() as folder:
                    storage.fetch(dataset.records_key(dataset.digest), Path(folder) / RECORDS_FILE)
                    found |= {(dataset.project, name) for name in read_image_names(Path(folder))}
            except (pa.ArrowException, WorkFailed) as error:
                log.warning("a table cannot be read: every image stays", dataset_id=dataset.id, error=str(error))
                return None
    return frozenset(found)


def _unfinished(storage: Storage, before: datetime) -> Iterator[tuple[Path, int]]:
    for path in storage.unfinished():
        with suppress(FileNotFoundError):
            found = path.stat()
            if found.st_mtime < before.timestamp():
                yield path, found.st_size


def main() -> int:
    """Clean once and print what went."""
    parser = argparse.ArgumentParser(description="Remove objects that no row names.")
    parser.add_argument("--dry-run", action="store_true", help="only tell")
    arguments = parser.parse_args()
    here = settings()
    logs.configure(here.log_format, part="janitor")
    database, storage = Database(here.resolved_database_url), Storage.from_url(here.resolved_storage_url)
    report = clean(database, storage, grace_s=here.janitor_grace_s, dry_run=arguments.dry_run)
    database.close()
    print("would be removed:" if arguments.dry_run else "removed:", *report.lines(), sep="\n")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
