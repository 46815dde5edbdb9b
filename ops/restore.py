"""`lensmith restore`: a backup becomes a data directory, whole or not at all."""

import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote

from alembic.util import CommandError

from core.db import Database
from core.layout import Layout
from core.settings import Settings
from models import leases
from ops import archive, data
from ops.backup import check_embedded
from ops.errors import CannotStart
from ops.migrate import upgrade


def restore(settings: Settings, file: Path) -> int:
    """Make a data directory of a backup; return how many jobs and validations are queued again.

    Everything is unpacked beside its place, compared with its digests and migrated, before anything gets its name; the
    database comes last. What ran when the backup was taken is queued again: its workers are not there.

    Raises:
        CannotStart: The backup is not whole, or the data directory is in use or not empty.
    """
    check_embedded(settings, "restored")
    if not file.is_file():
        raise CannotStart(f"There is no file {file}.")
    layout = settings.layout
    data.make(layout)
    with data.locked(layout):
        _forget_killed(layout)
        if layout.database.exists() or any(layout.storage.iterdir()):
            raise CannotStart(
                f"The data directory {layout.root} is not empty; restore into another one with --data-dir."
            )
        folder = Path(tempfile.mkdtemp(prefix="restoring-", dir=layout.run))
        try:
            archive.unpack(file, folder)
            num_queued = _release(folder / archive.DATABASE)
            unpacked = folder / archive.STORAGE
            if unpacked.exists():
                layout.storage.rmdir()
                unpacked.rename(layout.storage)
            (folder / archive.DATABASE).rename(layout.database)  # the last: until then nothing of it counts
        except OSError as error:
            raise CannotStart(f"The backup cannot be unpacked ({error.strerror}); nothing was restored.") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return num_queued


def _forget_killed(layout: Layout) -> None:
    """Remove what a restore that was killed has left: its folder lies there until the database has its name."""
    for left in layout.run.glob("restoring-*"):
        is_between = (left / archive.DATABASE).exists() and not (left / archive.STORAGE).exists()
        if is_between and not layout.database.exists():
            shutil.rmtree(layout.storage, ignore_errors=True)
            layout.storage.mkdir()
        shutil.rmtree(left, ignore_errors=True)


def _release(path: Path) -> int:
    """Bring the database to the newest schema, and take every lease in it back."""
    database = Database(f"sqlite:///{quote(str(path))}")
    try:
        try:
            upgrade(database)
        except CommandError as error:
            raise CannotStart(
                f"The backup was made by another version of Lensmith ({error}); restore it with that version."
            ) from error
        with database.write() as session:
            num_queued = leases.release_all(session, reason="the service was restored from a backup.")
    finally:
        database.close()  # the last connection writes the log of changes into the file, and removes it
    return num_queued
