"""Objects (data sets, images, adapters) behind one interface: a local folder now, S3 by another URL.

An object is written under a temporary key, read back and compared, and only then given its name; so a name always
stands for whole, verified bytes. Keys are made by the server and never hold a user's string.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from core import durable
from core.draft import Draft, Stored
from core.errors import FailureCode, WorkFailed
from core.ids import Prefix, new_id
from core.manifest import MANIFEST_FILE
from core.storage_errors import again, storage_failed, told

if TYPE_CHECKING:
    from obstore import ReadableFile
    from obstore.store import ClientConfig

CHUNK_BYTES = 1024 * 1024
_BUFFER_BYTES = 8 * CHUNK_BYTES
_BUFFERS_AT_ONCE = 3  # by default twelve are under way, 96 MB for each upload
STAGING_PREFIX = "staging"  # of temporary keys
_SILENT_S = 30.0  # of a server that was asked
_OPTIONS = (
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "proxy_url",
    "proxy_ca_certificate",
    "proxy_excludes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An object as the store lists it."""

    key: str
    size_bytes: int
    last_modified: datetime


def _unguarded() -> None:
    """Let everything be written."""


class Storage:
    """An object store. Every failure comes out as `WorkFailed(storage)`; what can be done over was tried again by then."""

    def __init__(
        self, store: ObjectStore, *, folder: Path | None = None, guard: Callable[[], None] = _unguarded
    ) -> None:
        self._store = store
        self._folder = folder  # where the objects lie as files; None: on a server
        self._guard = guard

    @classmethod
    def from_url(cls, url: str, *, request_s: float | None = None, retry_s: float | None = None) -> "Storage":
        """Open `file:///folder` or `s3://bucket/prefix` (credentials from the usual AWS variables).

        Args:
            url: where the objects lie.
            request_s: how long one request to a server may take, its body included; None leaves it to obstore: 30 s,
                then again from the place reached, and nothing after three minutes.
            retry_s: how long after its beginning a request may be repeated; a worker may not repeat one when its lease is over.
        """
        if url.startswith("file:"):
            root = Path(url2pathname(urlsplit(url).path))
            root.mkdir(parents=True, exist_ok=True)
            return cls(LocalStore(root), folder=root)
        if retry_s is not None:
            return cls(from_url(url, retry_config={"retry_timeout": timedelta(seconds=retry_s)}))
        if request_s is None:
            return cls(from_url(url))
        return cls(from_url(url, client_options=_client_options(request_s)))

    def guarded(self, check: Callable[[], None]) -> "Storage":
        """Return a view of the same store that asks `check` right before it writes, names or removes anything.

        What `check` raises comes through as it is, and nothing has got its name then. Only temporary bytes of a draft
        that is given up are removed without asking: nothing leads to them.
        """
        return Storage(self._store, folder=self._folder, guard=check)

    def put_folder(self, prefix: str, folder: Path) -> None:
        """Store the files of a folder below a prefix, the manifest last: where it lies, all that it names does."""
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == MANIFEST_FILE, path.name)):
            self.put_file(f"{prefix}/{path.name}", path)

    def put_file(self, key: str, source: Path) -> Stored:
        """Store a file."""

        def put() -> Stored:
            with source.open("rb") as stream:
                return self.put_stream(key, stream)

        return again(put)

    def put_bytes(self, key: str, data: bytes) -> Stored:
        """Store a small value."""
        return self.put_stream(key, io.BytesIO(data))

    def put_stream(self, key: str, stream: IO[bytes]) -> Stored:
        """Store a stream without holding it in memory: temporary key, verify, name."""
        return self.put_chunks(key, iter(lambda: stream.read(CHUNK_BYTES), b""))

    def put_chunks(self, key: str, chunks: Iterable[bytes]) -> Stored:
        """Store what comes piece by piece, as `put_stream` does; an error of `chunks` leaves nothing behind."""
        draft = self.draft(key)
        try:
            with told(key):
                for chunk in chunks:
                    draft.write(chunk)
            return self.finish(draft)
        except BaseException:
            self.discard(draft)
            raise

    def draft(self, key: str) -> Draft:
        """Begin an object whose bytes come from outside; who begins one ends it with `finish` or `discard`."""
        self._guard()
        temporary = f"{STAGING_PREFIX}/{new_id(Prefix.REQUEST)}"
        with told(key):
            out = obstore.open_writer(
                self._store, temporary, buffer_size=_BUFFER_BYTES, max_concurrency=_BUFFERS_AT_ONCE
            )
        return Draft(key, temporary, out, self._guard)

    def finish(self, draft: Draft) -> Stored:
        """Read a draft back, compare it with what was written, and give it its name.

        In a folder both bytes and name are on the disk when this returns, so that no row which is written afterwards
        outlives its object when the power fails; object_store leaves that to the kernel.
        """
        self._guard()
        with told(draft.key):
            draft.close()
            if self._folder is not None:
                durable.sync_file(self._folder / draft.temporary)
            if self._digest(draft.temporary) != draft.sha256:
                raise WorkFailed(
                    FailureCode.STORAGE,
                    f"The object {draft.key} read back differs from what was written.",
                    remedy="Check the disk or the object store; then do it again.",
                    retryable=True,
                )
            self._guard()
            obstore.rename(self._store, draft.temporary, draft.key, overwrite=True)
            if self._folder is not None:
                durable.sync_name(self._folder / draft.key, below=self._folder)
        return Stored(key=draft.key, sha256=draft.sha256, size_bytes=draft.size_bytes)

    def discard(self, draft: Draft) -> None:
        """Remove what came of a draft. A store that is away keeps it; nothing leads to it."""
        with suppress(WorkFailed):
            draft.close()  # a writer that is only dropped may leave a multipart upload open in the store
        with suppress(WorkFailed):
            self._remove(draft.temporary)

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield an object piece by piece."""
        try:
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)
        except (BaseError, OSError) as error:
            raise storage_failed(key, error) from error

    def read(self, key: str) -> bytes:
        """Return a small object whole."""
        try:
            return bytes(obstore.get(self._store, key).bytes())
        except (BaseError, OSError) as error:
            raise storage_failed(key, error) from error

    def read_start(self, key: str, size_bytes: int) -> bytes:
        """Return the first bytes of an object, fewer where it is shorter."""
        try:
            return bytes(obstore.get_range(self._store, key, start=0, length=size_bytes))
        except (BaseError, OSError) as error:
            raise storage_failed(key, error) from error

    def open(self, key: str) -> IO[bytes]:
        """Return an object to seek and read in; only the parts that are read come from the store."""
        try:
            return io.BufferedReader(_Window(obstore.open_reader(self._store, key), key), CHUNK_BYTES)
        except (BaseError, OSError) as error:
            raise storage_failed(key, error) from error

    def fetch(self, key: str, target: Path, *, check: Callable[[], None] = _unguarded) -> None:
        """Put a copy of an object at a local path. Never a link: who writes to the copy must not reach the object.

        What `check` raises, which is asked with every piece, ends it.
        """

        def fetch() -> None:
            try:
                with target.open("wb") as out:
                    for chunk in self.chunks(key):
                        check()
                        out.write(chunk)
            except OSError as error:
                raise storage_failed(key, error) from error

        again(fetch)

    def has(self, key: str) -> bool:
        """Tell whether an object has this name."""
        return self._last_modified(key) is not None

    def is_younger(self, key: str, than: datetime) -> bool:
        """Tell whether an object has this name and was written after a moment, by the store's clock."""
        written_at = self._last_modified(key)
        return written_at is not None and written_at > than

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield every object below a prefix with its size and its age, in no order; the clock is the store's."""
        try:
            for batch in obstore.list(self._store, prefix=prefix):
                for found in batch:
                    yield Entry(key=found["path"], size_bytes=found["size"], last_modified=found["last_modified"])
        except (BaseError, OSError) as error:
            raise storage_failed(prefix, error) from error

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key below a prefix."""
        for entry in self.entries(prefix):
            yield entry.key

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        self._guard()
        self._remove(key)

    def delete_old(self, key: str, *, before: datetime) -> bool:
        """Remove an object that was written before a moment, by the store's clock; False: it was not, and stays.

        In a folder it is moved aside, then looked at, and moved back when it is younger, so that what is written at this
        very moment is not lost. A server can only be asked first.
        """
        self._guard()
        if self._folder is None:
            is_old = not self.is_younger(key, before)
            if is_old:
                self._remove(key)
            return is_old
        aside = f"{STAGING_PREFIX}/{new_id(Prefix.REQUEST)}"
        try:
            obstore.rename(self._store, key, aside, overwrite=True)
        except FileNotFoundError:
            return False
        except (BaseError, OSError) as error:
            raise storage_failed(key, error) from error
        is_old = not self.is_younger(aside, before)
        if not is_old:
            with told(key), suppress(AlreadyExistsError):  # it was written once more
                obstore.rename(self._store, aside, key, overwrite=False)
        self._remove(aside)
        return is_old

    def unfinished(self) -> Iterator[Path]:
        """Yield the files that killed writers left in a folder, which no listing shows; on a server it cleans up itself."""
        if self._folder is not None:
            yield from (self._folder / STAGING_PREFIX).glob("*#*")

    def delete_below(self, prefix: str) -> None:
        """Remove every object below a prefix."""
        for key in list(self.keys(prefix)):
            self.delete(key)

    def check(self) -> None:
        """Write, read and remove a probe, or raise `WorkFailed(storage)`."""
        key = f"{STAGING_PREFIX}/{new_id(Prefix.REQUEST)}"
        self.put_bytes(key, b"probe")
        self.delete(key)

    def _last_modified(self, key: str) -> datetime | None:
        def look() -> datetime | None:
            try:
                return obstore.head(self._store, key)["last_modified"]
            except FileNotFoundError:
                return None
            except (BaseError, OSError) as error:
                raise storage_failed(key, error) from error

        return again(look)

    def _remove(self, key: str) -> None:
        try:
            obstore.delete(self._store, key)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise storage_failed(key, error) from error

    def _digest(self, key: str) -> str:
        hasher = hashlib.sha256()
        for chunk in self.chunks(key):
            hasher.update(chunk)
        return hasher.hexdigest()


def _client_options(request_s: float) -> "ClientConfig":
    """Options that are given take the place of all those of the environment, so the latter are given too."""
    options: dict[str, Any] = {
        name: os.environ[f"AWS_{name.upper()}"] for name in _OPTIONS if f"AWS_{name.upper()}" in os.environ
    }
    return cast("ClientConfig", options | {"timeout": f"{request_s:g}s", "read_timeout": f"{_SILENT_S:g}s"})


class _Window(io.RawIOBase):
    """obstore's reader as a file of Python's; its own lacks `closed` and `readinto`, which pyarrow asks for."""

    def __init__(self, reader: "ReadableFile", key: str) -> None:
        self._reader = reader
        self._key = key

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        try:
            data = bytes(self._reader.read(len(buffer)))
        except (BaseError, OSError) as error:
            raise storage_failed(self._key, error) from error
        buffer[: len(data)] = data
        return len(data)
