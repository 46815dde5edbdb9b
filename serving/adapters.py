"""Adapters from storage to a local folder: fetched whole, every byte compared, and only then given their name.

The folder's name is the digest of its manifest, so it is never stale. It is verified again before each load; a local
copy that went bad is fetched once more, and only bad bytes in storage are an error.
"""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from core.errors import Conflict, NotFound
from core.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, FolderDamaged, Manifest, parse_manifest, verify
from core.storage import Storage
from serving.wire import AdapterRef

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"

MAX_WEIGHTS_BYTES = 2 * 1024**3
MAX_TEXT_BYTES = 32 * 1024**2  # the largest is tokenizer.json, 3.5 MB for SmolVLM

# What an adapter may hold besides its weights is text; a pickle or a module of Python never gets past this line.
_TEXT_SUFFIXES = (".json", ".jinja", ".md", ".txt")


class AdapterStore:
    """The local cache of adapters, filled from storage."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self._storage = storage
        self._folder = folder

    def local_folder(self, ref: AdapterRef) -> Path:
        """Return the verified local folder of an adapter, fetching it when it is not there.

        Raises:
            NotFound: Storage has no such adapter.
            Conflict: Its files in storage are not what was published.
        """
        target = self._folder / ref.sha256
        if target.is_dir():
            with suppress(FolderDamaged):
                _check_files(verify(target, ref.sha256))
                return target
            shutil.rmtree(target)
        try:
            self._fetch(ref, target)
        except FolderDamaged as error:
            raise Conflict(
                f"The adapter is damaged: {error} Run its job again to publish it anew.", code="adapter_damaged"
            ) from error
        return target

    def _fetch(self, ref: AdapterRef, target: Path) -> None:
        manifest_key = f"{ref.key}/{MANIFEST_FILE}"
        if not self._storage.has(manifest_key):
            raise NotFound("Storage does not hold this adapter; it was deleted, or was never published.")
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetching-", dir=self._folder, ignore_cleanup_errors=True) as name:
            temporary = Path(name)
            self._storage.fetch(manifest_key, temporary / MANIFEST_FILE)
            for file in _check_files(_manifest_in(temporary, ref.sha256)).files:
                if not self._storage.has(f"{ref.key}/{file}"):
                    raise FolderDamaged(f"The file {file} is missing.")
                self._storage.fetch(f"{ref.key}/{file}", temporary / file)
            verify(temporary, ref.sha256)
            temporary.replace(target)


def _manifest_in(folder: Path, sha256: str) -> Manifest:
    path = folder / MANIFEST_FILE
    if path.is_symlink() or path.stat().st_size > MAX_MANIFEST_BYTES:
        raise FolderDamaged(f"There is no usable {MANIFEST_FILE}.")
    return parse_manifest(path.read_bytes(), sha256)


def _check_files(manifest: Manifest) -> Manifest:
    """Refuse what no adapter of ours holds, before it is fetched."""
    for required in (CONFIG_FILE, WEIGHTS_FILE):
        if required not in manifest.files:
            raise FolderDamaged(f"The file {required} is missing.")
    for name, entry in manifest.files.items():
        if name == WEIGHTS_FILE:
            limit = MAX_WEIGHTS_BYTES
        elif name.endswith(_TEXT_SUFFIXES):
            limit = MAX_TEXT_BYTES
        else:
            raise FolderDamaged(f"The file {name} is of a kind that no adapter may hold.")
        if entry.size_bytes > limit:
            raise FolderDamaged(f"The file {name} is larger than {limit // 2**20} MiB.")
    return manifest
