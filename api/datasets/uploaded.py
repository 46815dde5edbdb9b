"""A data set from an upload in parts: the parts are joined under the data set's key, and the upload is used up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlmodel import Session

from api.services import Services
from api.text import is_id
from api.uploads.access import pending, unknown
from core.draft import Stored
from core.errors import Conflict, Invalid
from core.storage import Storage
from ingest.container import Container, sniff
from models import upload as uploads
from models.upload import Upload, UploadPart

_POINTER = "#/upload"
_NAMED_PARTS = 10  # in the sentence; the document names all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """An upload whose parts are all there."""

    upload: Upload
    parts: Sequence[UploadPart]


def find_whole(services: Services, upload_id: str, *, project: str) -> Whole:
    """Return an upload that can become a data set; raises `Invalid` or `Conflict` when it cannot."""
    with services.database.read() as session:
        upload = uploads.get(session, upload_id, project=project) if is_id(upload_id) else None
        if upload is None:
            raise Invalid.field(_POINTER, unknown(upload_id))
        parts = uploads.parts_of(session, [upload.id])[upload.id]
    _check_complete(pending(upload), {part.number for part in parts})
    return Whole(upload=upload, parts=parts)


def join(storage: Storage, whole: Whole, key: str) -> tuple[Stored, Container]:
    """Store the parts as one object, and return it and what it is; raises `Invalid` when it cannot be taken."""
    stored = storage.put_chunks(key, _chunks(storage, whole.parts))
    try:
        assert stored.size_bytes == whole.upload.size_bytes
        with storage.open(key) as stream:
            return stored, sniff(stream, whole.upload.filename)
    except Invalid as refused:
        storage.delete(key)
        raise Invalid.field(_POINTER, refused.detail) from refused
    except BaseException:
        storage.delete(key)
        raise


def take(session: Session, whole: Whole) -> Upload:
    """Return the upload's row, held, if it still is what was joined; raises `Conflict` otherwise."""
    held = uploads.hold(session, whole.upload.id, project=whole.upload.project)
    if held is None:
        raise Conflict(f"The upload {whole.upload.id} was given up meanwhile. Begin another one with POST /uploads.")
    now = uploads.parts_of(session, [held.id])[held.id]
    if [part.key for part in now] != [part.key for part in whole.parts]:
        raise Conflict("A part of the upload was sent anew meanwhile. Ask again when no part is under way.")
    return pending(held)


def _chunks(storage: Storage, parts: Sequence[UploadPart]) -> Iterator[bytes]:
    for part in parts:
        yield from storage.chunks(part.key)


def _check_complete(upload: Upload, there: set[int]) -> None:
    missing = [number for number in range(1, upload.num_parts + 1) if number not in there]
    if not missing:
        return
    named = ", ".join(map(str, missing[:_NAMED_PARTS]))
    more = f" and {len(missing) - _NAMED_PARTS} more" if len(missing) > _NAMED_PARTS else ""
    plural = "s" if len(missing) > 1 else ""
    raise Conflict(
        f"Of the {upload.num_parts} parts of the upload, the part{plural} {named}{more} did not come yet. "
        f"Send {'them' if plural else 'it'}; then send this request again.",
        missing_parts=missing,
    )
