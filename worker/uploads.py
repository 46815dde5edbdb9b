"""Uploads in parts that nobody finished: their objects are removed, then their rows."""

from core.db import Database
from core.errors import WorkFailed
from core.logs import get_logger
from core.storage import Storage
from models import upload as uploads

AT_ONCE = 20  # in one sweep; the rest waits for the next

log = get_logger(__name__)


def sweep_uploads(database: Database, storage: Storage) -> None:
    """Remove expired uploads. The row goes last, so what a store that is away keeps is found by the next sweep."""
    with database.read() as session:
        expired = uploads.expired(session, limit=AT_ONCE)
    for upload in expired:
        try:
            storage.delete_below(upload.prefix)
        except WorkFailed as failed:
            log.warning("parts of an upload stay behind", upload_id=upload.id, error=failed.detail)
            continue
        with database.write() as session:
            uploads.forget(session, upload.id)
        log.info("upload removed", upload_id=upload.id)
