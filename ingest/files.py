"""What zips, tars and folders share: rows lie in the `*.jsonl` files, and rows name the others."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import IO

from ingest.issues import Finding, ImageRefused, Rule, shown
from ingest.limits import Limits
from ingest.lines import count_lines, read_rows
from ingest.names import Names
from ingest.sources import SourceRow


class WithFiles(ABC):
    """All of a source but the reading of its files."""

    def __init__(self, names: Names, limits: Limits) -> None:
        self._names = names
        self._limits = limits

    @abstractmethod
    def open_file(self, name: str) -> IO[bytes]:
        """Open a file for reading once; raises `SourceFault` when it cannot be read."""

    def count_rows(self) -> int:
        """Return the number of lines in all JSONL files."""
        total = 0
        for name in self._names.jsonl():
            with self.open_file(name) as stream:
                total += count_lines(stream)
        return total

    def rows(self) -> Iterator[SourceRow]:
        """Yield every row of every JSONL file, in the order of their names."""
        for name in self._names.jsonl():
            with self.open_file(name) as stream:
                yield from read_rows(stream, name, self._limits)

    def find(self, path: str, *, beside: str | None) -> str | None:
        """Return the file that a path means."""
        return self._names.find(path, beside=beside)

    def missing(self, path: str) -> Finding:
        """Return that there is no such file, and the nearest name."""
        return self._names.missing(path)

    def files(self) -> Iterator[str]:
        """Yield the names of all files that hold no rows."""
        return self._names.files()


def too_large(name: str, limits: Limits) -> ImageRefused:
    """Return the refusal of an image file that is larger than one may be."""
    message = f"the file {shown(name)} has more than {limits.max_image_bytes:,} bytes."
    return ImageRefused(Finding(rule=Rule.IMAGE_TOO_LARGE, message=message, fix="Save the image smaller, or as JPEG."))
