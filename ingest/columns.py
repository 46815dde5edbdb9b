"""Column mapping: which of the upload's columns stands for which field of ours."""

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import from_json

from core.errors import FieldError, Invalid
from ingest.issues import Finding, Rule, shown

FIELDS = ("image", "images", "question", "answer", "caption", "text", "messages", "split")
MAX_COLUMN_CHARS = 200
_MAX_POINTER_CHARS = 200
_POINTER = "#/columns"
_EXAMPLE = 'Write a JSON object such as {"image": "img_path", "question": "prompt", "answer": "label"}.'


def parse_columns(text: str) -> dict[str, str]:
    """Return the mapping that a form field or an option holds as JSON.

    Raises:
        Invalid: as `check_columns` does, or it is not JSON.
    """
    try:
        return check_columns(from_json(text))
    except ValueError as error:
        raise Invalid.field(_POINTER, f"The columns are not JSON: {error}. {_EXAMPLE}") from error


def check_columns(value: object) -> dict[str, str]:
    """Return a mapping of names of ours to names of the upload's.

    Raises:
        Invalid: it is no such object; each wrong entry has its pointer below `#/columns`.
    """
    if not isinstance(value, dict):
        raise Invalid.field(_POINTER, f"The columns are no JSON object. {_EXAMPLE}")
    errors = tuple(_wrong(value))
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise Invalid(f"{errors[0].pointer}: {errors[0].detail}{more}", errors=errors)
    return value


class Columns:
    """A mapping in use: reads rows by our names, and remembers which columns were ever seen."""

    def __init__(self, mapping: Mapping[str, str] | None = None) -> None:
        """Take a mapping that `parse_columns` has checked; fields that it leaves out go by their own name."""
        self.mapping = dict(mapping or {})
        self._taken = frozenset(self.mapping.values())
        self._unseen = dict(self.mapping)

    def name(self, field: str) -> str:
        """Return what the upload calls a field."""
        return self.mapping.get(field, field)

    def holds(self, row: Mapping[str, Any], field: str) -> bool:
        """Return whether a row has the field. A column that is mapped to one field stands for no other."""
        name = self.name(field)
        found = name in row and (field in self.mapping or name not in self._taken)
        if found:
            self._unseen.pop(field, None)
        return found

    @property
    def names(self) -> frozenset[str]:
        """Return what the upload may call the fields."""
        return frozenset(map(self.name, FIELDS))

    def pointer(self, field: str) -> str:
        """Return the pointer of a field in the upload's own words."""
        return f"#/{escape(self.name(field))}"

    def unseen(self) -> Iterator[Finding]:
        """Yield the columns that were mapped, but that no row had or used."""
        for field, name in self._unseen.items():
            message = f"columns names {shown(name)} as the {field}, but no row was read by it."
            fix = "Look at its spelling, or take it out of the columns."
            yield Finding(rule=Rule.UNUSED_COLUMN, pointer=f"#/{escape(name)}", message=message, fix=fix)


def escape(key: str) -> str:
    """Return a key as a piece of a JSON pointer (RFC 6901); one of megabytes is cut, for reports hold thousands."""
    short = key if len(key) <= _MAX_POINTER_CHARS else f"{key[:_MAX_POINTER_CHARS]}…"
    return short.replace("~", "~0").replace("/", "~1")


def _wrong(value: dict[str, Any]) -> Iterator[FieldError]:
    owners: dict[str, str] = {}
    for field, name in value.items():
        pointer = f"{_POINTER}/{escape(field)}"
        if field not in FIELDS:
            yield FieldError(
                pointer=pointer, detail=f"There is no field {shown(field)}. The fields are {', '.join(FIELDS)}."
            )
        elif not isinstance(name, str) or not name or len(name) > MAX_COLUMN_CHARS or not _is_clean(name):
            detail = (
                f"The name of a column is wanted: 1 to {MAX_COLUMN_CHARS} characters, none of them a control character."
            )
            yield FieldError(pointer=pointer, detail=detail)
        elif name in owners:
            detail = f"The column {shown(name)} stands for the {owners[name]} already. Name each column once."
            yield FieldError(pointer=pointer, detail=detail)
        else:
            owners[name] = field


def _is_clean(name: str) -> bool:
    """PostgreSQL keeps no NUL, and a terminal obeys an escape."""
    return not any(unicodedata.category(character) == "Cc" for character in name)
