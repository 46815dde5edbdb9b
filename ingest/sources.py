"""The containers behind one face: rows in order, and files by name."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ingest.container import Container
from ingest.issues import Finding, Rule, shown
from ingest.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    """One row as it was found. `value` is `None` when it is no object; then `findings` says why."""

    row: int
    file: str | None
    value: dict[str, Any] | None
    findings: tuple[Finding, ...] = ()

    @property
    def is_remark(self) -> bool:
        """Return whether this is no row at all, only a remark about the file (a byte order mark on an empty line)."""
        return self.value is None and not any(finding.is_error for finding in self.findings)


class Source(Protocol):
    """An uploaded file. Reading it may raise `SourceFault`, when nothing after that place can be read."""

    def count_rows(self) -> int | None:
        """Return about how many rows there are, for progress only; `None` when it cannot be told."""

    def rows(self) -> Iterator[SourceRow]:
        """Yield every row, file by file in the order of their names."""

    def find(self, path: str, *, beside: str | None) -> str | None:
        """Return the name of the file that `path` means in a row of the file `beside`; `None` when there is none."""

    def missing(self, path: str) -> Finding:
        """Return what to say about a path that means no file."""

    def read(self, name: str) -> bytes:
        """Return the bytes of a file that `find` named; raises `ImageRefused` when it is damaged or too large."""

    def files(self) -> Iterator[str]:
        """Yield the names of the files that rows may name."""


class RowsOnly:
    """The half of a source without files beside its rows."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def find(self, path: str, *, beside: str | None) -> str | None:  # noqa: ARG002 - the shape of `Source`
        """Return `None`: there are no files."""
        return None

    def missing(self, path: str) -> Finding:
        """Return that this container carries no files."""
        return Finding(
            rule=Rule.MISSING_IMAGE,
            message=f"the image {shown(path)} is not in the upload: {self._kind} carries no files.",
            fix="Put the image in (as a data: URL in JSONL, as bytes in Parquet), or upload a zip that holds the file.",
        )

    def read(self, name: str) -> bytes:
        """Refuse: `find` named nothing."""
        raise AssertionError(name)

    def files(self) -> Iterator[str]:
        """Yield nothing."""
        return iter(())


@contextmanager
def open_source(
    path: Path, container: Container, limits: Limits, *, names: Collection[str], scratch: Path
) -> Iterator[Source]:
    """Open an uploaded file, or a folder, for reading.

    Args:
        path: where it is.
        container: what it is.
        limits: the bounds.
        names: of the columns that may be used; others may be left unread.
        scratch: a folder for what must be unpacked, in files without names.
    """
    if container is Container.FOLDER:
        from ingest.folder import FolderSource

        yield FolderSource(path, limits)
        return
    with path.open("rb") as stream, ExitStack() as stack:
        match container:
            case Container.PARQUET:
                from ingest.parquet import ParquetSource  # pyarrow takes a third of a second to import

                yield ParquetSource(stream, limits, names)
            case Container.ZIP:
                from ingest.archive import ZipSource

                yield ZipSource(stream, limits)
            case Container.TAR:
                from ingest.tarball import TarSource, plain

                yield TarSource(stack.enter_context(plain(stream, scratch, limits)), limits)
            case Container.JSONL:
                from ingest.archive import JsonlSource

                yield JsonlSource(stream, limits)
