"""Lists: newest first, `limit` and an opaque cursor."""

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

from api.text import ID_PATTERN

Row = TypeVar("Row")
Item = TypeVar("Item", bound=BaseModel)

Limit = Annotated[int, Query(ge=1, le=100, description="how many items at most")]
Cursor = Annotated[str | None, Query(pattern=ID_PATTERN, description="`next_cursor` of the page before")]


class Page(BaseModel, Generic[Item]):
    """One page of a list; `next_cursor` is null on the last."""

    items: list[Item]
    next_cursor: str | None


def paged(rows: Sequence[Row], *, limit: int, read: Callable[[Row], Item], cursor: Callable[[Row], str]) -> Page[Item]:
    """Make a page of rows that were asked for with `limit + 1`."""
    shown = rows[:limit]
    more = len(rows) > limit
    return Page(items=[read(row) for row in shown], next_cursor=cursor(shown[-1]) if more else None)
