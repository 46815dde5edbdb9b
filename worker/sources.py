"""The file of a data set that was named by its source: fetched once, by the worker, before the child looks at it."""

import contextlib
import hashlib
import shutil
from collections.abc import Generator
from pathlib import Path

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from core.errors import FailureCode, Invalid, WorkFailed
from core.settings import Settings
from core.storage import Storage
from ingest.container import Container, sniff
from ingest.guard import Guard
from ingest.issues import FetchFailed, Rule, shown
from ingest.origins import HubOrigin, Origin, parse_origin, shown_source
from ingest.remote import read_url
from worker.arrivals import Overdue, arriving
from worker.attempt import Attempt
from worker.hub import fetch_hub

_LASTING = (FileNotFoundError, PermissionDeniedError, UnauthenticatedError)
FETCH_S = 1800.0  # of one file; the lease is kept alive meanwhile


class Sources:
    """What the operator lets callers name as a source, and how much of it."""

    def __init__(self, settings: Settings, *, guard: Guard | None = None, seconds: float = FETCH_S) -> None:
        self._seconds = seconds
        self._https = settings.remote_images
        self._hub = settings.hub_datasets
        self._buckets = settings.source_bucket_names
        self._max_bytes = settings.max_upload_bytes
        self._guard = guard

    def fetch(self, source: str, target: Path, attempt: Attempt) -> str:
        """Write the file to a local path and return its sha256.

        Raises:
            LeaseLost: as `attempt.check` does, which is asked all the time.
            Interrupted: the same.
            WorkFailed: `source`: it is not allowed or not there; retryable when it may be there later. `bad_data`: it is too
                large.
        """
        try:
            origin = parse_origin(source, https=self._https, buckets=self._buckets, hub=self._hub)
            if isinstance(origin, HubOrigin):
                return self._fetch_hub(origin, target, attempt)
            return self._fetch_file(origin, source, target, attempt)
        except FetchFailed as failed:
            found = failed.finding
            may_pass = found.rule is Rule.URL_UNREACHABLE
            raise _unread(f"The source {found.message}", found.fix, retryable=may_pass) from failed
        except Overdue as overdue:
            raise _unread(
                f"The source {shown(shown_source(source))} did not come within {self._seconds:,g} s.",
                "Try again later, or upload the file.",
                retryable=True,
            ) from overdue

    def _fetch_file(self, origin: Origin, source: str, target: Path, attempt: Attempt) -> str:
        hasher, size = hashlib.sha256(), 0
        chunks = arriving(self._chunks(origin), seconds=self._seconds, check=attempt.check)
        with target.open("wb") as out, contextlib.closing(chunks):
            for chunk in chunks:
                hasher.update(chunk)
                size += out.write(chunk)
                if size > self._max_bytes:
                    raise _too_large(source, self._max_bytes)
        return hasher.hexdigest()

    def _fetch_hub(self, origin: HubOrigin, target: Path, attempt: Attempt) -> str:
        staging = target.with_name("hub")
        fetch_hub(origin, attempt, staging, max_bytes=self._max_bytes, seconds=self._seconds).rename(target)
        shutil.rmtree(staging)  # its cache too
        with target.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def _chunks(self, origin: Origin) -> Generator[bytes, None, None]:
        if origin.kind == "https":
            return read_url(origin.place, self._guard or Guard(), seconds=self._seconds)
        return _read_s3(origin, seconds=self._seconds)


def container_of(path: Path, filename: str) -> Container:
    """Return what a fetched file is; raises `WorkFailed` with the sentence that an upload of it would have got."""
    try:
        with path.open("rb") as stream:
            return sniff(stream, filename)
    except Invalid as refused:
        raise _faulty(refused.detail, "Name the source of such a file.") from refused


def _read_s3(origin: Origin, *, seconds: float) -> Generator[bytes, None, None]:
    try:
        yield from Storage.from_url(f"s3://{origin.place}", request_s=seconds).chunks(origin.key)
    except WorkFailed as failed:
        name = shown(f"s3://{origin.place}/{origin.key}")
        remedy = "Check the key, and that the worker's AWS_* variables may read the bucket."
        may_pass = not isinstance(failed.__cause__, _LASTING)
        raise _unread(f"The source {name} could not be read.", remedy, retryable=may_pass) from failed


def _too_large(source: str, max_bytes: int) -> WorkFailed:
    detail = f"The source {shown(shown_source(source))} has more than {max_bytes:,} bytes."
    return _faulty(detail, "Split the data set, or have the operator raise LENSMITH_MAX_UPLOAD_BYTES.")


def _faulty(detail: str, remedy: str) -> WorkFailed:
    return WorkFailed(FailureCode.BAD_DATA, detail, remedy=remedy)


def _unread(detail: str, remedy: str, *, retryable: bool) -> WorkFailed:
    return WorkFailed(FailureCode.SOURCE, detail, remedy=remedy, retryable=retryable)
