"""The name of a base model as callers give it, and the one refusal of a name that can be none."""

from typing import Annotated

from pydantic import StringConstraints

from api.text import Plain
from core.errors import Invalid
from vlm import catalog

BASE_NAMES = "an id of GET /base-models, a Hub id or a local folder"
BaseName = Annotated[Plain, StringConstraints(min_length=1, max_length=500)]


def check_base_model(name: str) -> None:
    """Refuse a base model that cannot be one, before anything is written."""
    if catalog.is_known(name):
        return
    known = ", ".join(entry.id for entry in catalog.CATALOG)
    raise Invalid.field(
        "#/base_model",
        f"{name!r} is no base model. Take one of {known}; or a Hub id (owner/name); or an existing local folder.",
    )
