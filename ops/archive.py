"""The file of a backup: a tar whose last member, `manifest.json`, holds the sha256 of all others."""

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from ops.errors import CannotStart

DATABASE = "lensmith.db"
STORAGE = "storage"
MANIFEST = "manifest.json"
VERSION = 1
_CHUNK_BYTES = 1024 * 1024


class Writer:
    """Writes members and remembers their digests."""

    def __init__(self, out: IO[bytes]) -> None:
        self._tar = tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - `close` ends it
        self.digests: dict[str, str] = {}

    def add(self, name: str, path: Path) -> None:
        """Add a file that nobody changes.

        Raises:
            FileNotFoundError: It is gone.
        """
        with path.open("rb") as stream:
            info = tarfile.TarInfo(name)
            info.size = os.fstat(stream.fileno()).st_size
            reading = _Hashing(stream)
            self._tar.addfile(info, reading)
        self.digests[name] = reading.hexdigest()

    def close(self) -> None:
        """Write the manifest and the end."""
        data = json.dumps({"version": VERSION, "sha256": self.digests}, indent=1, sort_keys=True).encode()
        info = tarfile.TarInfo(MANIFEST)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))
        self._tar.close()


def verify(file: Path) -> dict[str, str]:
    """Return the digests of a backup whose every byte was read.

    Raises:
        CannotStart: It is not whole; the sentence names the member.
    """
    return _read(file, None)


def unpack(file: Path, folder: Path) -> None:
    """Write the members of a backup below a folder; nothing of it counts unless this returns.

    Raises:
        CannotStart: It is not whole, or names what no backup holds.
    """
    _read(file, folder)


def _read(file: Path, folder: Path | None) -> dict[str, str]:
    """Read every member once, write it where there is a folder, and compare all with the manifest, which comes last."""
    found: dict[str, str] = {}
    document = None
    with _readable(file):
        for info, stream in _members(file):
            if info.name == MANIFEST:
                document = stream.read()
            else:
                found[info.name] = _copied(stream, None if folder is None else folder / _checked(info.name, file))
    expected = _parsed(document, file)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CannotStart(
                f"The backup {file.name} is damaged: {name} is not what its manifest says. Take another one."
            )
    return expected


def _members(file: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    with tarfile.open(file, mode="r:") as tar:
        for info in tar:
            stream = tar.extractfile(info) if info.isreg() else None
            if stream is None:
                raise CannotStart(f"{file.name} is no backup: {info.name} is not a plain file.")
            yield info, stream


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError) as error:
        raise CannotStart(f"{file.name} cannot be read as a backup ({error}); take another one.") from error


def _parsed(document: bytes | None, file: Path) -> dict[str, str]:
    if document is None:
        raise CannotStart(f"The backup {file.name} is cut off: it has no {MANIFEST}. Take another one.")
    try:
        parsed = json.loads(document)
        version, digests = parsed["version"], dict(parsed["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise CannotStart(f"The {MANIFEST} of {file.name} cannot be read; take another backup.") from error
    if version != VERSION:
        raise CannotStart(f"{file.name} is a backup of version {version}; this Lensmith reads version {VERSION}.")
    return digests


def _checked(name: str, file: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    is_ours = name == DATABASE or (path.parts[:1] == (STORAGE,) and len(path.parts) > 1)
    if path.is_absolute() or ".." in path.parts or not is_ours:
        raise CannotStart(f"{file.name} is no backup: it holds {name!r}.")
    return path


def _copied(stream: IO[bytes], target: Path | None) -> str:
    """Copy a stream, or only read it; return its sha256."""
    reading = _Hashing(stream)
    if target is None:
        while reading.read(_CHUNK_BYTES):
            pass
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:
            shutil.copyfileobj(reading, out, _CHUNK_BYTES)
            out.flush()
            os.fsync(out.fileno())
    return reading.hexdigest()


class _Hashing(io.RawIOBase):
    """A stream whose bytes are counted into a digest as they are read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hasher = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._hasher.update(data)
        return data

    def hexdigest(self) -> str:
        return self._hasher.hexdigest()
