"""Lists of the server, read page by page."""

from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel

from lensmith.transport import Transport

R = TypeVar("R", bound=BaseModel)


def all_of(transport: Transport, path: str, kind: type[R], **params: Any) -> Iterator[R]:
    """Yield every item of a list, fetching pages as they are needed."""
    cursor: str | None = None
    while True:
        page = transport.get(path, limit=100, cursor=cursor, **params)
        yield from (kind.model_validate(item) for item in page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            return
