"""An object on its way: written under a temporary key, without a name yet."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.storage_errors import told

if TYPE_CHECKING:
    from obstore import WritableFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What was written: its key, its sha256 (hexadecimal) and its size."""

    key: str
    sha256: str
    size_bytes: int


class Draft:
    """An object on its way: its bytes lie under a temporary key until `Storage.finish` names it."""

    def __init__(self, key: str, temporary: str, out: "WritableFile", guard: Callable[[], None]) -> None:
        self.key = key
        self.temporary = temporary
        self.size_bytes = 0
        self._out = out
        self._guard = guard
        self._hasher = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Return the digest of what was written so far (hexadecimal)."""
        return self._hasher.hexdigest()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._guard()
        with told(self.key):
            self._out.write(data)
        self._hasher.update(data)
        self.size_bytes += len(data)

    def close(self) -> None:
        """Hand the last bytes to the store."""
        with told(self.key):
            if not self._out.closed():
                self._out.close()
