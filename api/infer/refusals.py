"""Serving's refusals in the caller's words: serving calls some fields otherwise than the body that came."""

import re
from functools import partial

import httpx2
from pydantic import BaseModel, ValidationError

from api import serving
from api.infer.schemas import InferRequest
from api.serving import Refusal
from core.errors import FieldError, Problem


class _Line(BaseModel):
    error: Refusal


def problem_of(response: httpx2.Response, body: InferRequest, *, is_form: bool) -> Problem:
    """Turn a refusal, read whole, into ours; what is no problem document is `Unavailable`."""
    return serving.problem_of(response, partial(_renamed, body=body, is_form=is_form))


def problem_of_line(line: object, body: InferRequest, *, is_form: bool) -> Problem:
    """Turn the last line of a stream that broke off, `{"error": {...}}`, into a problem."""
    try:
        refusal = _Line.model_validate(line).error
    except ValidationError:
        return serving.unreadable()
    return serving.as_problem(refusal, partial(_renamed, body=body, is_form=is_form))


def _renamed(field: FieldError, *, body: InferRequest, is_form: bool) -> FieldError:
    pointer = _pointer(field.pointer, body)
    picture = re.fullmatch(r"#/images/([0-9]+)", pointer)
    if is_form and picture is not None:
        return FieldError(pointer=pointer, detail=f"Picture {int(picture[1]) + 1} of the field image: {field.detail}")
    return FieldError(pointer=pointer, detail=field.detail)


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
