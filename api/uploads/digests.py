"""`Content-Digest` (RFC 9530): what the sender says that it sent, `sha-256=:<base64>:`."""

import base64
import binascii
import hashlib
from typing import Annotated

from fastapi import Depends, Header

from core.errors import Invalid

_POINTER = "#/content-digest"
_NAME = "sha-256"

ContentDigest = Annotated[
    str | None,
    Header(
        alias="Content-Digest",
        description="RFC 9530, `sha-256=:<base64>:`; a part with another digest is refused and not kept",
    ),
]


def _claimed(field: ContentDigest = None) -> str | None:
    """Return the sha256 that the sender claims (hexadecimal).

    A digest that cannot be checked is refused and not ignored, as RFC 9530 would allow: the sender would rely on it.
    """
    if field is None:
        return None
    members = (member.strip().partition("=") for member in field.split(","))  # no comma is part of base64
    values = {name: value.partition(";")[0].strip() for name, _, value in members}
    if _NAME not in values:
        raise Invalid.field(_POINTER, f"Of the digests only {_NAME} is checked: `{_NAME}=:<base64>:`.")
    digest = _bytes_of(values[_NAME])
    if digest is None or len(digest) != hashlib.sha256().digest_size:
        raise Invalid.field(_POINTER, f"{_NAME} is no digest in base64 between colons: `{_NAME}=:<base64>:`.")
    return digest.hex()


ClaimedDep = Annotated[str | None, Depends(_claimed)]


def check_digest(sha256: str, claimed: str | None) -> None:
    """Refuse bytes whose digest is another one than the sender claims."""
    if claimed is not None and claimed != sha256:
        raise Invalid.field(
            _POINTER, f"The part that came has the sha256 {sha256}, and the header says {claimed}. Send it again."
        )


def _bytes_of(value: str) -> bytes | None:
    """Return a structured field's byte sequence (RFC 9651, section 3.3.5); None when it is none."""
    if len(value) < 2 or not (value.startswith(":") and value.endswith(":")):
        return None
    try:
        return base64.b64decode(value[1:-1], validate=True)
    except binascii.Error:
        return None
