"""Serving's answers that are none, as our own problems: refused, unreadable, away."""

from collections.abc import Callable
from http import HTTPStatus

import httpx2
from pydantic import BaseModel, ValidationError

from core.errors import PROBLEMS, FieldError, Problem, Unavailable

_KINDS = {kind.status: kind for kind in PROBLEMS}

Rename = Callable[[FieldError], FieldError]


class Field(BaseModel):
    """One wrong field, as serving calls it."""

    pointer: str
    detail: str


class Refusal(BaseModel):
    """What we take over of a problem document; its `instance` is serving's own."""

    status: int
    detail: str
    code: str | None = None
    errors: tuple[Field, ...] = ()


def problem_of(response: httpx2.Response, rename: Rename) -> Problem:
    """Turn a refusal, read whole, into ours; what is no problem document is `Unavailable`.

    Args:
        response: What serving answered.
        rename: Says what a field of serving's is to our caller.
    """
    try:
        refusal = Refusal.model_validate_json(response.content)
    except ValidationError:
        return Unavailable(f"Serving answered {response.status_code} without a reason; GET /readyz tells more.")
    return as_problem(refusal, rename)


def as_problem(refusal: Refusal, rename: Rename) -> Problem:
    """Return a refusal of serving's as ours."""
    if refusal.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unavailable(refusal.detail)
    detail, errors = refusal.detail, []
    for theirs in refusal.errors:
        ours = rename(FieldError(pointer=theirs.pointer, detail=theirs.detail))
        detail = detail.replace(theirs.pointer, ours.pointer).replace(theirs.detail, ours.detail)
        errors.append(ours)
    extra = {} if refusal.code is None else {"code": refusal.code}
    return _KINDS.get(refusal.status, Unavailable)(detail, errors=tuple(errors), **extra)


def unreadable() -> Problem:
    """Say that something answers where serving should be."""
    return Unavailable("Serving answered with something that is no answer; GET /readyz tells more.")


def unreachable(error: httpx2.HTTPError) -> Problem:
    """Say that serving does not answer."""
    return Unavailable(f"Serving does not answer ({type(error).__name__}); GET /readyz tells more.")
