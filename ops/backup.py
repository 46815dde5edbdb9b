"""`lensmith backup`: the embedded database and its objects in one file, while the service runs."""

import json
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from core.db import Database
from core.manifest import MANIFEST_FILE
from core.settings import Settings
from core.storage import STAGING_PREFIX
from models import named
from ops import archive
from ops.errors import CannotStart

TRIES = 3


def backup(settings: Settings, file: Path) -> dict[str, str]:
    """Write a backup; return the sha256 of each of its members.

    First a snapshot of the rows, then the objects, which never change: an object that came later is one too many, and
    one that a row of the snapshot names and that was removed meanwhile makes the whole be taken again. The file has a
    temporary name until every byte of it was read back.

    Raises:
        CannotStart: There is nothing of ours to back up, or it cannot be written.
    """
    check_embedded(settings, "backed up")
    layout = settings.layout
    if not layout.database.exists():
        raise CannotStart(f"There is no database in {layout.root}; name another --data-dir.")
    part = file.with_name(f"{file.name}.part")
    snapshot = file.with_name(f"{file.name}.db")
    try:
        for _ in range(TRIES):
            _snapshot(layout.database, snapshot)
            missing = _write(layout.storage, snapshot, part)
            if not missing:
                digests = archive.verify(part)
                part.rename(file)
                return digests
    except (OSError, sqlite3.Error) as error:
        raise CannotStart(f"The backup cannot be written ({error}); nothing was left behind.") from error
    finally:
        for left in (part, snapshot):
            with suppress(FileNotFoundError):
                left.unlink()
    raise CannotStart(
        f"The object {missing[0]} is named by a row and is missing or changed. If jobs save all the time, pause them and take "
        "the backup again; else the service's own copy is damaged."
    )


def check_embedded(settings: Settings, done: str) -> None:
    """Refuse what other programs do better.

    Raises:
        CannotStart: The rows or the objects do not lie in the data directory.
    """
    if settings.database_url is not None or settings.storage_url is not None:
        raise CannotStart(
            f"Only the embedded database and storage are {done} by Lensmith. For PostgreSQL use pg_dump or its own archiving, "
            "for a bucket its versioning; take the rows first, and keep removed objects for as long as the rows."
        )


def _snapshot(database: Path, snapshot: Path) -> None:
    snapshot.unlink(missing_ok=True)
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        connection.execute("VACUUM INTO ?", (str(snapshot),))


def _write(storage: Path, snapshot: Path, part: Path) -> list[str]:
    """Write everything, and return the keys that a row names and that are not there."""
    with part.open("wb") as out:
        writer = archive.Writer(out)
        writer.add(archive.DATABASE, snapshot)
        for path in sorted(storage.rglob("*")):
            key = path.relative_to(storage).as_posix()
            if path.is_file() and not key.startswith(f"{STAGING_PREFIX}/"):
                with suppress(FileNotFoundError):  # removed since it was listed; whether that matters is seen below
                    writer.add(f"{archive.STORAGE}/{key}", path)
        writer.close()
        out.flush()
        os.fsync(out.fileno())
    wanted = _named(snapshot)
    missing = [key for key in wanted if f"{archive.STORAGE}/{key}" not in writer.digests]
    return missing or _broken_folders(storage, wanted, writer.digests)


def _broken_folders(storage: Path, wanted: list[str], digests: dict[str, str]) -> list[str]:
    """Return what a manifest lists and the backup does not have like that: removed or changed while it was copied."""
    broken = []
    for key in wanted:
        prefix, _, name = key.rpartition("/")
        if name == MANIFEST_FILE:
            try:
                files = json.loads((storage / key).read_bytes())["files"]
            except (OSError, ValueError, KeyError):
                return [key]
            broken += [
                f"{prefix}/{file}"
                for file, entry in files.items()
                if digests.get(f"{archive.STORAGE}/{prefix}/{file}") != entry["sha256"]
            ]
    return broken


def _named(snapshot: Path) -> list[str]:
    database = Database(f"sqlite:///{quote(str(snapshot))}")
    try:
        with database.read() as session:
            return named.keys(session)
    finally:
        database.close()
