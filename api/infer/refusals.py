"""Serving's refusals in the caller's words: serving calls some fields otherwise than the body that came."""

import re
from http import HTTPStatus

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from api.infer.schemas import InferRequest
from api.infer.service import unreadable
from core.errors import PROBLEMS, FieldError, Problem, Unavailable

_KINDS = {kind.status: kind for kind in PROBLEMS}


class _Field(BaseModel):
    pointer: str
    detail: str


class _Document(BaseModel):
    """What we take over of a problem document; its `instance` is serving's own."""

    status: int
    detail: str
    code: str | None = None
    errors: tuple[_Field, ...] = ()


class _Line(BaseModel):
    error: _Document


_JSON = TypeAdapter(_Document)


def problem_of(response: httpx2.Response, body: InferRequest, *, is_form: bool) -> Problem:
    """Turn a refusal, read whole, into ours; what is no problem document is `Unavailable`."""
    try:
        document = _JSON.validate_json(response.content)
    except ValidationError:
        return Unavailable(f"Serving answered {response.status_code} without a reason; GET /readyz tells more.")
    return _problem(document, body, is_form=is_form)


def problem_of_line(line: object, body: InferRequest, *, is_form: bool) -> Problem:
    """Turn the last line of a stream that broke off, `{"error": {...}}`, into a problem."""
    try:
        document = _Line.model_validate(line).error
    except ValidationError:
        return unreadable()
    return _problem(document, body, is_form=is_form)


def _problem(document: _Document, body: InferRequest, *, is_form: bool) -> Problem:
    if document.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unavailable(document.detail)
    detail, errors = document.detail, []
    for field in document.errors:
        pointer, sentence = _pointer(field.pointer, body), field.detail
        picture = re.fullmatch(r"#/images/([0-9]+)", pointer)
        if is_form and picture is not None:
            sentence = f"Picture {int(picture[1]) + 1} of the field image: {sentence}"
        detail = detail.replace(field.pointer, pointer).replace(field.detail, sentence)
        errors.append(FieldError(pointer=pointer, detail=sentence))
    extra = {} if document.code is None else {"code": document.code}
    return _KINDS.get(document.status, Unavailable)(detail, errors=tuple(errors), **extra)


def _pointer(pointer: str, body: InferRequest) -> str:
    """Return where the field stands in the body that came.

    A prompt was made into messages, sampling into a part, and the images of messages into one list.
    """
    pointers = {f"#/images/{index}": own for index, own in enumerate(body.conversation().pointers)}
    if pointer in pointers:
        return pointers[pointer]
    if body.prompt is not None and (pointer == "#/messages" or pointer.startswith("#/messages/")):
        return "#/prompt"
    return f"#/{pointer.removeprefix('#/sampling/')}" if pointer.startswith("#/sampling/") else pointer
