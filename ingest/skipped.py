"""Rows that were left out: every one of them is listed by its number, however many there are."""

from array import array
from collections.abc import Iterable
from enum import StrEnum

from pydantic import BaseModel

from ingest.issues import Rule


class OnBadRow(StrEnum):
    """What a row with an error does: it refuses the whole data set, or it is left out."""

    FAIL = "fail"
    SKIP = "skip"


class SkippedRows(BaseModel):
    """Rows of one file that were left out because they break the same rules; all of them, in their order."""

    file: str | None
    rules: list[Rule]
    rows: list[int]


class SkipLog:
    """Collects the numbers of rows that were left out: eight bytes for each, below their file and their rules."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str | None, tuple[Rule, ...]], array[int]] = {}
        self._num_rows = 0

    def __len__(self) -> int:
        return self._num_rows

    def add(self, rules: Iterable[Rule], *, row: int, file: str | None) -> None:
        """Take a row that breaks some rules."""
        self._rows.setdefault((file, tuple(sorted(set(rules)))), array("Q")).append(row)
        self._num_rows += 1

    def listed(self) -> list[SkippedRows]:
        """Return every row that was taken."""
        return [
            SkippedRows(file=file, rules=list(rules), rows=list(rows)) for (file, rules), rows in self._rows.items()
        ]
