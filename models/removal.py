"""Removing what has objects as well as rows: the objects first, so that a row is left of whatever is left."""

from core.db import Database
from core.errors import WorkFailed
from core.logs import get_logger
from core.storage import Storage
from models import upload as uploads
from models.upload import Upload

log = get_logger(__name__)


def remove_upload(database: Database, storage: Storage, upload: Upload) -> None:
    """Remove an expired upload; one whose objects stay, because the store is away, is found by the next sweep."""
    if remove_parts(storage, upload):
        with database.write() as session:
            uploads.forget(session, upload.id)
        log.info("upload removed", upload_id=upload.id)


def remove_parts(storage: Storage, upload: Upload) -> bool:
    """Remove the objects of an upload's parts, and keep its row; False: the store is away, and they stay."""
    try:
        storage.delete_below(upload.prefix)
    except WorkFailed as failed:
        log.warning("parts of an upload stay behind", upload_id=upload.id, error=failed.detail)
        return False
    return True
