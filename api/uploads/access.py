"""Finding an upload, and refusing one that is not there or was used, in the same words everywhere."""

from sqlmodel import Session

from api.text import is_id
from core.errors import Conflict, NotFound
from models import upload as uploads
from models.upload import KEEP, Upload


def find(session: Session, upload_id: str, *, project: str) -> Upload:
    """Return an upload's row, or refuse with 404."""
    found = uploads.get(session, upload_id, project=project) if is_id(upload_id) else None
    if found is None:
        raise NotFound(unknown(upload_id))
    return found


def hold(session: Session, upload_id: str, *, project: str) -> Upload:
    """Return an upload's row, held until the transaction ends, or refuse with 404."""
    found = uploads.hold(session, upload_id, project=project) if is_id(upload_id) else None
    if found is None:
        raise NotFound(unknown(upload_id))
    return found


def pending(upload: Upload) -> Upload:
    """Return an upload that was not used yet, or refuse with 409."""
    if upload.dataset_id is None:
        return upload
    raise Conflict(
        f"The upload {upload.id} became the data set {upload.dataset_id}. Begin another one with POST /uploads.",
        state=upload.state.value,
        dataset=upload.dataset_id,
    )


def unknown(upload_id: str) -> str:
    """Say that there is no such upload."""
    hours = int(KEEP.total_seconds() // 3600)
    return f"There is no upload {upload_id!r}. One that no part came for in {hours} hours is removed."
