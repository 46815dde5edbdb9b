"""The two bodies of `POST /infer`, multipart and JSON, parsed into one value."""

import base64
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile

from api.infer.schemas import MAX_IMAGES, InferRequest
from core.errors import Invalid
from core.http import content_type, read_json, read_model

FORM_TYPE = "multipart/form-data"

_JSON_SCHEMA = {"$ref": "#/components/schemas/InferRequest"}
_FORM_SCHEMA = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "image": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "PNG, JPEG or WEBP; repeat the field for several",
        },
        "prompt": {"type": "string"},
        "adapter": {"type": "string", "description": "exactly one of adapter and model"},
        "model": {"type": "string"},
        "max_tokens": {"type": "integer"},
        "temperature": {"type": "number"},
        "top_p": {"type": "number"},
        "seed": {"type": "integer"},
        "stream": {"type": "boolean"},
    },
}
OPENAPI_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _JSON_SCHEMA}, "multipart/form-data": {"schema": _FORM_SCHEMA}},
    }
}


async def parse(request: Request) -> InferRequest:
    """Read the body by its content type; raises `Invalid` with a pointer per wrong field."""
    sent = content_type(request)
    if sent == FORM_TYPE:
        async with request.form(max_files=MAX_IMAGES + 1, max_fields=32) as form:
            given: Any = await _from_form(form)
    elif sent == "application/json":
        given = read_json(await request.body())
    else:
        raise Invalid(f"Send {FORM_TYPE} (image, prompt, adapter or model) or application/json, not {sent!r}.")
    return read_model(InferRequest, given)


def is_form(request: Request) -> bool:
    """Tell whether the body is a form."""
    return content_type(request) == FORM_TYPE


async def _from_form(form: FormData) -> dict[str, Any]:
    values: dict[str, Any] = {"images": []}
    for name, value in form.multi_items():
        if name == "image":
            values["images"].append(await _data_url(value))
        elif isinstance(value, UploadFile):
            raise Invalid.field(f"#/{name}", f"{name} is no field for files; pictures are files of the field image.")
        elif name == "stop":
            values.setdefault("stop", []).append(value)
        elif name in values:
            raise Invalid.field(f"#/{name}", f"{name} came more than once.")
        else:
            values[name] = value
    return values


async def _data_url(value: UploadFile | str) -> str:
    """Return the picture as serving takes it; its real type is read from its bytes there."""
    if isinstance(value, str):
        raise Invalid.field("#/image", "image must be a file (curl: -F image=@picture.png).")
    data = await value.read()
    return f"data:{_media_type(data)};base64,{base64.b64encode(data).decode()}"


def _media_type(data: bytes) -> str:
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return "image/png"
