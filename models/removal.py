"""Removing objects, of things that have rows as well, over a store that may be away."""

from core.db import Database
from core.errors import WorkFailed
from core.logs import get_logger
from core.storage import Storage
from models import upload as uploads
from models.upload import Upload

log = get_logger(__name__)


def remove_upload(database: Database, storage: Storage, upload: Upload) -> None:
    """Remove an expired upload: the objects first, so that a row is left, and found by the next sweep, while one is."""
    if remove_below(storage, upload.prefix):
        with database.write() as session:
            uploads.forget(session, upload.id)
        log.info("upload removed", upload_id=upload.id)


def remove_below(storage: Storage, prefix: str) -> bool:
    """Remove every object below a prefix, whose name says whose they are; False: the store is away, and some stay.

    Where no row names them any more, the janitor finds them.
    """
    try:
        storage.delete_below(prefix)
    except WorkFailed as failed:
        log.warning("objects stay behind", prefix=prefix, error=failed.detail)
        return False
    return True
