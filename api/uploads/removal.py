"""The objects of an upload that has ended."""

from api.services import Services
from core.errors import WorkFailed
from core.logs import get_logger
from models import upload as uploads
from models.upload import Upload

log = get_logger(__name__)


def remove_now(services: Services, upload: Upload) -> None:
    """Remove an upload that was given up. What fails here is done by the next sweep of a worker."""
    if remove_parts(services, upload):
        with services.database.write() as session:
            uploads.forget(session, upload.id)


def remove_parts(services: Services, upload: Upload) -> bool:
    """Remove the parts' objects; False: the store is away, and they stay until a sweep comes."""
    try:
        services.storage.delete_below(upload.prefix)
    except WorkFailed as failed:
        log.warning("parts of an upload stay behind", upload_id=upload.id, error=failed.detail)
        return False
    return True
