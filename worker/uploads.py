"""Uploads in parts that nobody finished: their objects are removed, then their rows."""

from core.db import Database
from core.storage import Storage
from models import upload as uploads
from models.removal import remove_upload

AT_ONCE = 20  # in one sweep; the rest waits for the next


def sweep_uploads(database: Database, storage: Storage) -> None:
    """Remove expired uploads; what a store that is away keeps is found by the next sweep."""
    with database.read() as session:
        expired = uploads.expired(session, limit=AT_ONCE)
    for upload in expired:
        remove_upload(database, storage, upload)
