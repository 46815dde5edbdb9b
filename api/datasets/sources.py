"""The JSON bodies of `POST /datasets`: a data set by its source, which a worker fetches, or by an upload in parts."""

from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from api.base_models.names import BaseName
from api.datasets.measuring import MEASURED, measuring
from api.documents import REFERENCE
from api.text import NAME_CHARS, Link, Name, Plain, is_control
from core.errors import Invalid, TooLarge
from core.http import content_type, read_json, read_model
from core.settings import Settings
from ingest.columns import check_columns
from ingest.issues import FetchFailed
from ingest.origins import name_of, parse_origin
from ingest.skipped import OnBadRow
from models.dataset import Dataset
from vlm.image_options import ImageOptions

_MAX_BYTES = 64 * 1024  # the route's own limit is that of an upload


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name | None = None
    columns: dict[str, str] | None = Field(None, description="fields to the names that the file gives them")
    on_bad_row: OnBadRow = Field(OnBadRow.FAIL, description="`skip` leaves rows with errors out")
    base_model: BaseName | None = Field(None, description=MEASURED)
    image: ImageOptions = ImageOptions()


class SourceRequest(_Described):
    """A data set that lies elsewhere."""

    source: Link = Field(
        description="https://... or s3://bucket/key of a file that could be uploaded, or hf://org/name[@revision][?config=...&split=...]"
    )


class UploadedRequest(_Described):
    """A data set whose file came in parts."""

    upload: Plain = Field(description="id of an upload whose parts are all there; it is used up")


_BODIES = (SourceRequest, UploadedRequest)

OPENAPI_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"oneOf": [{"$ref": REFERENCE.format(model=body.__name__)} for body in _BODIES]}
            },
            "multipart/form-data": {"schema": {"required": ["file"]}},
        },
    }
}


async def _read(request: Request) -> SourceRequest | UploadedRequest | None:
    """Return the body when it is JSON; a form is read by FastAPI."""
    if content_type(request) != "application/json":
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BYTES:
            raise TooLarge(f"A JSON body may have {_MAX_BYTES:,} bytes here; send the file itself as a form.")
    given = read_json(bytes(body))
    if isinstance(given, dict) and "upload" in given:
        return read_model(UploadedRequest, given)
    return read_model(SourceRequest, given)


SourceDep = Annotated[SourceRequest | UploadedRequest | None, Depends(_read)]


def dataset_of(asked: SourceRequest, settings: Settings, *, dataset_id: str, project: str) -> Dataset:
    """Return the row of a data set that is still to be fetched; raises `Invalid` when no worker would fetch it."""
    try:
        parse_origin(
            asked.source,
            https=settings.remote_images,
            buckets=settings.source_bucket_names,
            hub=settings.hub_datasets,
        )
    except FetchFailed as failed:
        raise Invalid.field("#/source", f"{failed.finding.message} {failed.finding.fix}") from failed
    filename = "".join(c for c in name_of(asked.source) if not is_control(c))[:255] or "dataset"
    name = asked.name or filename.rpartition(".")[0][:NAME_CHARS] or filename[:NAME_CHARS]
    wanted = measuring(asked.base_model, asked.image, pointer="#/image")
    columns = None if asked.columns is None else check_columns(asked.columns)
    return Dataset(
        id=dataset_id,
        project=project,
        name=name,
        filename=filename,
        source=asked.source,
        columns=columns,
        on_bad_row=asked.on_bad_row.value,
        base_model=wanted.base_model,
        image=wanted.image,
    )
