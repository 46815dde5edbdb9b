"""What callers write: names without control characters, and what an id looks like."""

import re
import unicodedata
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, StringConstraints

NAME_CHARS = 200
FILENAME_CHARS = 255
LINK_CHARS = 2048
ID_PATTERN = r"^[a-z0-9_]{1,64}$"

_ID = re.compile(r"[a-z0-9_]{1,64}")


def is_control(character: str) -> bool:
    """Tell whether a character is a control character (NUL, escape, a line's end)."""
    return unicodedata.category(character) == "Cc"


def is_id(text: str) -> bool:
    """Tell whether something can have this id; what cannot is never looked for."""
    return _ID.fullmatch(text) is not None


def file_name(given: str) -> str:
    """Return the last part of a file's name, without what a database or a terminal would choke on."""
    plain = "".join(character for character in given if not is_control(character))
    return PurePosixPath(plain.replace("\\", "/")).name[:FILENAME_CHARS]


def said(failure: dict[str, Any]) -> str:
    """Return a failure as a sentence."""
    return f"{failure['detail']} {failure['remedy']}"


def _without_control(text: str) -> str:
    """PostgreSQL keeps no NUL, and a terminal obeys an escape."""
    if any(map(is_control, text)):
        raise ValueError("Control characters are not taken.")
    return text


Plain = Annotated[str, AfterValidator(_without_control)]
Name = Annotated[Plain, StringConstraints(min_length=1, max_length=NAME_CHARS)]
Link = Annotated[str, StringConstraints(min_length=1, max_length=LINK_CHARS), AfterValidator(_without_control)]
