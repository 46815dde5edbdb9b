"""`lensmith backup`: the embedded database and its objects in one file, while the service runs."""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from core.db import Database
from core.layout import Layout
from core.links import link_or_copy
from core.manifest import MANIFEST_FILE, FolderDamaged, parse_manifest
from core.settings import Settings
from core.storage import STAGING_PREFIX
from models import named
from ops import archive
from ops.errors import CannotStart

TRIES = 3


def backup(settings: Settings, file: Path) -> dict[str, str]:
    """Write a backup; return the sha256 of each of its members.

    The objects, which never change, are held by links before the snapshot of the rows and once more after it. What a row
    of the snapshot names was stored before that row, so it is held, however fast jobs save and remove; what came and
    went between the two makes the whole be taken again. The file has a temporary name until every byte was read back.

    Raises:
        CannotStart: There is nothing of ours to back up, it cannot be written, or another backup is under way.
    """
    check_embedded(settings, "backed up")
    layout = settings.layout
    if not layout.database.exists():
        raise CannotStart(f"There is no database in {layout.root}; name another --data-dir.")
    part = file.with_name(f"{file.name}.part")
    with _folder(layout) as folder:
        try:
            for _ in range(TRIES):
                held, snapshot = _moment(layout, folder)
                missing = _write(held, snapshot, part)
                if not missing:
                    digests = archive.verify(part)
                    part.rename(file)
                    return digests
        except (OSError, sqlite3.Error) as error:
            raise CannotStart(f"The backup cannot be written ({error}); nothing was left behind.") from error
        finally:
            part.unlink(missing_ok=True)
    raise CannotStart(
        f"The object {missing[0]} is named by a row and is missing or changed: the service's own copy is damaged. Restore "
        "an older backup, or delete what the object belongs to and take the backup again."
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


def forget_killed(layout: Layout) -> None:
    """Remove what a killed backup holds: it would keep the bytes of what is removed from now on."""
    with suppress(CannotStart), _folder(layout):
        pass


@contextmanager
def _folder(layout: Layout) -> Iterator[Path]:
    """Yield an empty folder on the disk of the objects, for one backup at a time; what a killed one left is removed."""
    folder = layout.run / "backup"
    with (layout.run / "backup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(f"Another backup of {layout.root} is under way; wait for its end.") from None
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _moment(layout: Layout, folder: Path) -> tuple[Path, Path]:
    """Return a folder with every object, and a snapshot of the rows that name them."""
    shutil.rmtree(folder, ignore_errors=True)
    held, snapshot = folder / archive.STORAGE, folder / archive.DATABASE
    held.mkdir(parents=True)
    _hold(layout.storage, held)
    with closing(sqlite3.connect(layout.database, timeout=30)) as connection:
        connection.execute("VACUUM INTO ?", (str(snapshot),))
    _hold(layout.storage, held)
    return held, snapshot


def _hold(storage: Path, held: Path) -> None:
    """Give every object a second name; where the file system has no links, copy it."""
    for path in storage.rglob("*"):
        key = path.relative_to(storage)
        if key.parts[0] == STAGING_PREFIX or not path.is_file() or (held / key).exists():
            continue
        (held / key).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # removed since it was listed; whether that matters is seen later
            link_or_copy(path, held / key)


def _write(held: Path, snapshot: Path, part: Path) -> list[str]:
    """Write everything, and return the keys that a row names and that are not there."""
    with part.open("wb") as out:
        writer = archive.Writer(out)
        writer.add(archive.DATABASE, snapshot)
        for path in sorted(held.rglob("*")):
            if path.is_file():
                writer.add(f"{archive.STORAGE}/{path.relative_to(held).as_posix()}", path)
        writer.close()
        out.flush()
        os.fsync(out.fileno())
    wanted = _named(snapshot)
    missing = [key for key in wanted if f"{archive.STORAGE}/{key}" not in writer.digests]
    return missing or _broken_folders(held, wanted, writer.digests)


def _broken_folders(held: Path, wanted: list[str], digests: dict[str, str]) -> list[str]:
    """Return what a manifest lists and the backup does not have like that: removed or changed."""
    broken = []
    for key in wanted:
        prefix, _, name = key.rpartition("/")
        if name == MANIFEST_FILE:
            try:
                manifest = parse_manifest((held / key).read_bytes(), prefix.rpartition("/")[2])
            except FolderDamaged:
                return [key]
            broken += [
                f"{prefix}/{file}"
                for file, entry in manifest.files.items()
                if digests.get(f"{archive.STORAGE}/{prefix}/{file}") != entry.sha256
            ]
    return broken


def _named(snapshot: Path) -> list[str]:
    database = Database(f"sqlite:///{quote(str(snapshot))}")
    try:
        with database.read() as session:
            return named.keys(session)
    finally:
        database.close()
