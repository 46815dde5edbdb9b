"""A folder's manifest: the digest of every file, whose own digest names the whole folder.

`manifest.json` is canonical JSON, so the same files always give the same bytes and the same name. An adapter's
`sha256` is the digest of its manifest; whoever holds the name can tell whether the folder is still what was published.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import LensmithError

MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 256 * 1024
CHUNK_BYTES = 1024 * 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class FolderDamaged(LensmithError):
    """A folder is not what its manifest, or its name, says. The message is a sentence without any path."""


class FileEntry(BaseModel):
    """One file of the folder."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    files: dict[str, FileEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The files of a folder by name, and the digest that names them all."""

    files: dict[str, FileEntry]
    sha256: str

    @property
    def size_bytes(self) -> int:
        """Return the size of all files together, the manifest itself not counted."""
        return sum(entry.size_bytes for entry in self.files.values())


def make_manifest(folder: Path) -> Manifest:
    """Write `manifest.json` into a flat folder and return it.

    Raises:
        FolderDamaged: The folder holds a subfolder, a link, or a name that is not plain.
    """
    files = {name: _entry(path) for name, path in sorted(_files(folder).items())}
    data = _canonical(files)
    (folder / MANIFEST_FILE).write_bytes(data)
    return Manifest(files=files, sha256=hashlib.sha256(data).hexdigest())


def parse_manifest(data: bytes, sha256: str) -> Manifest:
    """Return the manifest in `data`, which must have this digest.

    Raises:
        FolderDamaged: The digest differs, or the bytes are no manifest.
    """
    if hashlib.sha256(data).hexdigest() != sha256:
        raise FolderDamaged(f"{MANIFEST_FILE} does not have the digest {sha256}.")
    try:
        files = _Document.model_validate_json(data).files
    except ValidationError as error:
        raise FolderDamaged(f"{MANIFEST_FILE} is not a manifest.") from error
    for name in files:
        _check_name(name)
    return Manifest(files=files, sha256=sha256)


def verify(folder: Path, sha256: str) -> Manifest:
    """Return the manifest of a folder whose every byte was compared with it.

    Raises:
        FolderDamaged: A file is missing, changed, not listed, or not a plain file.
    """
    path = folder / MANIFEST_FILE
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_MANIFEST_BYTES:
        raise FolderDamaged(f"There is no usable {MANIFEST_FILE}.")
    manifest = parse_manifest(path.read_bytes(), sha256)
    present = _files(folder)
    if missing := sorted(manifest.files.keys() - present.keys()):
        raise FolderDamaged(f"The file {missing[0]} is missing.")
    if unlisted := sorted(present.keys() - manifest.files.keys()):
        raise FolderDamaged(f"The file {unlisted[0]} is not in {MANIFEST_FILE}.")
    for name, entry in manifest.files.items():
        if _entry(present[name]) != entry:
            raise FolderDamaged(f"The file {name} differs from what {MANIFEST_FILE} says.")
    return manifest


def _files(folder: Path) -> dict[str, Path]:
    """Return the folder's plain files by name, without the manifest itself."""
    found = {}
    for path in folder.iterdir():
        if path.name == MANIFEST_FILE:
            continue
        _check_name(path.name)
        if path.is_symlink() or not path.is_file():
            raise FolderDamaged(f"{path.name} is not a plain file.")
        found[path.name] = path
    return found


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name == MANIFEST_FILE:
        raise FolderDamaged(f"{name!r} is not a name that a manifest may hold.")


def _entry(path: Path) -> FileEntry:
    hasher, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            hasher.update(chunk)
            size += len(chunk)
    return FileEntry(sha256=hasher.hexdigest(), size_bytes=size)


def _canonical(files: dict[str, FileEntry]) -> bytes:
    """Return the one JSON text of these files: sorted keys, no blanks, ASCII, one newline at the end."""
    document = {"files": {name: entry.model_dump() for name, entry in files.items()}}
    return (json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True) + "\n").encode()
