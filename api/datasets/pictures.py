"""`GET /datasets/{id}/images/{sha256}` and its thumbnail: the pictures of one data set, and of no other."""

import io
import re
import threading
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse
from PIL import Image
from pydantic import BaseModel, Field

from api.datasets.access import find_ready
from api.datasets.table import Table
from api.documents import problems
from api.services import ProjectDep, Services, ServicesDep
from core.errors import Conflict, NotFound, Unavailable
from core.ids import Prefix, new_id
from core.storage import Storage
from ingest.images import FORMATS, mime_of
from models.dataset import Dataset, image_key

THUMBNAIL_PX = 256
THUMBNAIL_TYPE = "image/webp"
HEADER_BYTES = 64 * 1024  # holds the size of most pictures; behind a long EXIF block the rest is read
MAX_DECODING = 2  # at once; a picture of 25 million pixels takes 75 MB
REMEMBERED = 20_000  # sizes of pictures, about 100 bytes each

router = APIRouter(prefix="/datasets", tags=["datasets"])

_SHA256 = re.compile(r"[0-9a-f]{64}")
_decoding = threading.BoundedSemaphore(MAX_DECODING)

IfNoneMatch = Annotated[str | None, Header(description="the ETag of a copy that the client has")]


class PictureRead(BaseModel):
    """A picture of a data set; its bytes never change."""

    sha256: str
    url: str = Field(description="path of the picture as it is trained on")
    thumbnail_url: str = Field(description=f"path of a copy of at most {THUMBNAIL_PX} pixels a side")
    width_px: int
    height_px: int
    media_type: str


def read_picture(storage: Storage, dataset: Dataset, sha256: str) -> PictureRead:
    """Return a picture as the API shows it."""
    width_px, height_px, media_type = _header(storage, image_key(dataset.project, sha256))
    url = f"/datasets/{dataset.id}/images/{sha256}"
    return PictureRead(
        sha256=sha256,
        url=url,
        thumbnail_url=f"{url}/thumbnail",
        width_px=width_px,
        height_px=height_px,
        media_type=media_type,
    )


def _pictures(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """Return the `responses=` of an endpoint that answers a picture."""
    shown: dict[int | str, dict[str, Any]] = {
        200: {"content": {kind: {} for kind in media_types}, "description": "the picture"}
    }
    return problems(NotFound, Conflict, Unavailable) | shown | {304: {"description": "the client's copy is the same"}}


@router.get(
    "/{dataset_id}/images/{sha256}",
    response_class=Response,
    responses=_pictures("image/png", "image/jpeg", "image/webp"),
)
def get_image(
    dataset_id: str, sha256: str, services: ServicesDep, project: ProjectDep, if_none_match: IfNoneMatch = None
) -> Response:
    """Show a picture as it is trained on: upright, without transparency, in its own format."""
    dataset = _find(services, dataset_id, sha256, project=project)
    headers = _lasting(sha256)
    if _has_copy(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    media_type, chunks = _open(services.storage, image_key(dataset.project, sha256))
    return StreamingResponse(chunks, media_type=media_type, headers=headers)


@router.get("/{dataset_id}/images/{sha256}/thumbnail", response_class=Response, responses=_pictures(THUMBNAIL_TYPE))
def get_thumbnail(
    dataset_id: str, sha256: str, services: ServicesDep, project: ProjectDep, if_none_match: IfNoneMatch = None
) -> Response:
    """Show a small copy of a picture, made on first use."""
    dataset = _find(services, dataset_id, sha256, project=project)
    headers = _lasting(f"{sha256}-{THUMBNAIL_PX}")
    if _has_copy(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    path = services.thumbnails.folder / f"{sha256}.webp"
    if not services.thumbnails.use(path):
        _make_thumbnail(services.storage, image_key(dataset.project, sha256), path)
        services.thumbnails.add(path)
    return Response(path.read_bytes(), media_type=THUMBNAIL_TYPE, headers=headers)


def _find(services: Services, dataset_id: str, sha256: str, *, project: str) -> Dataset:
    """Return the data set that has this picture, or refuse."""
    dataset = find_ready(services, dataset_id, project=project)
    table = Table.of(dataset, cache=services.tables, storage=services.storage)
    if _SHA256.fullmatch(sha256) is None or not table.names_image(sha256):
        raise NotFound(
            f"The data set {dataset_id} has no picture {sha256!r}; GET /datasets/{dataset_id}/examples names them."
        )
    return dataset


def _lasting(tag: str) -> dict[str, str]:
    """Return the headers of bytes that never change; a shared cache must not give them to others."""
    return {
        "ETag": f'"{tag}"',
        "Cache-Control": "private, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
    }


def _has_copy(if_none_match: str | None, tag: str) -> bool:
    """Tell whether `If-None-Match` names the tag (RFC 9110, 13.1.2: the weak comparison)."""
    given = [one.strip().removeprefix("W/") for one in (if_none_match or "").split(",")]
    return tag in given or given == ["*"]


def _open(storage: Storage, key: str) -> tuple[str, Iterator[bytes]]:
    """Return a picture's media type and its bytes; a store that is away refuses before the answer begins."""
    chunks = storage.chunks(key)
    first = next(chunks, b"")
    media_type = mime_of(first)
    if media_type is None:
        raise _damaged(key)
    return media_type, chain([first], chunks)


@lru_cache(maxsize=REMEMBERED)
def _header(storage: Storage, key: str) -> tuple[int, int, str]:
    """Return width, height and media type of a stored picture, from its first bytes where they say it."""
    start = storage.read_start(key, HEADER_BYTES)
    media_type = mime_of(start)
    if media_type is None:
        raise _damaged(key)
    try:
        return *_size(start), media_type
    except OSError:
        pass
    try:
        return *_size(storage.read(key)), media_type
    except OSError as error:
        raise _damaged(key) from error


def _size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return image.size


def _make_thumbnail(storage: Storage, key: str, path: Path) -> None:
    """Write a small copy. The picture was verified before it was stored, so its pixels are bounded."""
    temporary = path.with_name(f"{path.name}.{new_id(Prefix.REQUEST)}")
    with _decoding:
        data = storage.read(key)
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                image.draft("RGB", (2 * THUMBNAIL_PX, 2 * THUMBNAIL_PX))  # JPEG is decoded smaller at once
                image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
                image.save(temporary, "WEBP", quality=80)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _damaged(key) from error
    temporary.replace(path)


def _damaged(key: str) -> Unavailable:
    return Unavailable(
        f"The stored picture {key} is damaged. Check the disk or the object store; then upload it again."
    )
