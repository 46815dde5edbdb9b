"""`/uploads`."""

from fastapi import APIRouter, Request, Response
from sqlmodel import Session

from api.documents import problems
from api.idempotency import Answer, KeyHeader, fingerprint, once
from api.listing import Cursor, Limit, Page, paged
from api.services import ProjectDep, ServicesDep
from api.text import file_name
from api.uploads.access import find, hold
from api.uploads.parts import put_part
from api.uploads.schemas import PartRead, UploadCreate, UploadRead, read_upload
from core.errors import Conflict, FieldError, NotFound, TooLarge, Unavailable
from core.http import JsonRoute
from core.ids import Prefix, new_id
from core.settings import Settings
from models import upload as uploads
from models.removal import remove_upload
from models.upload import Upload

_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def make_router(settings: Settings) -> APIRouter:
    """Return the routes; the limit of a part's body comes from the settings."""
    router = APIRouter(prefix="/uploads", tags=["uploads"], route_class=JsonRoute)
    router.post("", status_code=201, response_model=UploadRead, responses=problems(TooLarge))(create_upload)
    router.get("")(list_uploads)
    router.get("/{upload_id}", responses=problems(NotFound))(get_upload)
    router.delete("/{upload_id}", status_code=204, responses=problems(NotFound))(delete_upload)
    router.put(
        "/{upload_id}/parts/{number}",
        response_model=PartRead,
        responses=problems(NotFound, Conflict, TooLarge, Unavailable),
        openapi_extra=_BODY,
        max_body_size=settings.max_upload_bytes,
    )(put_part)
    return router


def create_upload(
    body: UploadCreate, request: Request, services: ServicesDep, project: ProjectDep, key: KeyHeader = None
) -> Response:
    """Begin an upload in parts, for a file that a broken connection should not undo.

    Send each part with PUT /uploads/{id}/parts/{number}; then POST /datasets with `{"upload": "<id>"}`.
    """
    _check_size(body.size_bytes, services.settings)
    upload = Upload(
        id=new_id(Prefix.UPLOAD),
        project=project,
        filename=file_name(body.filename) or "upload",
        size_bytes=body.size_bytes,
        part_bytes=services.settings.upload_part_bytes,
    )
    answer = once(
        services,
        request,
        project=project,
        key=key,
        content=fingerprint(body.model_dump(mode="json")),
        make=lambda session: _create(session, upload),
    )
    return answer.response()


def list_uploads(
    services: ServicesDep, project: ProjectDep, limit: Limit = 20, cursor: Cursor = None
) -> Page[UploadRead]:
    """List uploads, newest first."""
    with services.database.read() as session:
        rows = uploads.page(session, project=project, before=cursor, limit=limit + 1)
        parts = uploads.parts_of(session, [row.id for row in rows])
    return paged(rows, limit=limit, read=lambda row: read_upload(row, parts[row.id]), cursor=lambda row: row.id)


def get_upload(upload_id: str, services: ServicesDep, project: ProjectDep) -> UploadRead:
    """Show an upload and which of its parts are there; those that are not are still to be sent."""
    with services.database.read() as session:
        upload = find(session, upload_id, project=project)
        return read_upload(upload, uploads.parts_of(session, [upload.id])[upload.id])


def delete_upload(upload_id: str, services: ServicesDep, project: ProjectDep) -> None:
    """Give an upload up: its parts are removed. A data set that it became stays."""
    with services.database.write() as session:
        upload = hold(session, upload_id, project=project)
        uploads.expire(session, upload)
    remove_upload(services.database, services.storage, upload)


def _check_size(size_bytes: int, settings: Settings) -> None:
    if size_bytes > settings.max_upload_bytes:
        detail = (
            f"The file has {size_bytes:,} bytes, and this server takes {settings.max_upload_bytes:,}. "
            "Split the data set, or have the operator raise LENSMITH_MAX_UPLOAD_BYTES."
        )
        raise TooLarge(detail, errors=(FieldError(pointer="#/size_bytes", detail=detail),))


def _create(session: Session, upload: Upload) -> Answer:
    session.add(upload)
    session.flush()
    body = read_upload(upload, []).model_dump(mode="json")
    return Answer(status=201, body=body, location=f"/uploads/{upload.id}")
