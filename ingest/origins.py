"""Where the file of a data set may be fetched from: `https://...` and `s3://bucket/key`, and what it is called there."""

from dataclasses import dataclass
from typing import Literal

import httpx2

from ingest.guard import forbidden, parse_url

_TAKEN = "Taken are https://... and s3://bucket/key; or upload the file."


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A file elsewhere. Of S3, `place` is the bucket and `key` the key; of https, `place` is the whole URL."""

    kind: Literal["https", "s3"]
    place: str
    key: str = ""


def parse_origin(source: str, *, https: bool, buckets: frozenset[str]) -> Origin:
    """Return where a source leads.

    Args:
        source: as the caller wrote it.
        https: whether the operator lets callers' URLs be fetched.
        buckets: the S3 buckets that the operator lets callers read.

    Raises:
        FetchFailed: the operator does not allow it, or it is nothing of the kind.
    """
    if source.startswith("s3://"):
        bucket, _, key = source.removeprefix("s3://").partition("/")
        if bucket not in buckets:
            raise forbidden(
                source, "is in a bucket that is not read", "Have the operator add it: LENSMITH_SOURCE_BUCKETS."
            )
        if not key or not key.isprintable():
            raise forbidden(source, "names no object", "Write s3://bucket/key.")
        return Origin(kind="s3", place=bucket, key=key)
    if not source.lower().startswith("https://"):
        raise forbidden(source, "is no source of a data set", _TAKEN)
    if not https:
        fix = "Upload the file; or have the operator set LENSMITH_REMOTE_IMAGES=true, and https URLs are fetched."
        raise forbidden(source, "lies elsewhere, and this server fetches nothing from the network", fix)
    return Origin(kind="https", place=str(parse_url(source)))


def name_of(source: str) -> str:
    """Return the last part of a source's path: of a URL without what stands behind it, which may hold a signature."""
    path = httpx2.URL(source).path if not source.startswith("s3://") else source
    return path.rstrip("/").rpartition("/")[2]
