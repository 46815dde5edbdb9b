"""Where a data set may be fetched from: `https://...`, `s3://bucket/key`, `hf://org/name`, and what it is called there."""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, urlencode

import httpx2
from pydantic import BaseModel, ConfigDict

from ingest.guard import forbidden, parse_url
from ingest.issues import shown

_TAKEN = "Taken are https://..., s3://bucket/key and hf://org/name; or upload the file."
_HUB = "hf://"
_HUB_SHAPE = "Write hf://org/name, hf://org/name@revision, or hf://org/name?config=...&split=... ."
# As the Hub takes them; a revision is a branch, a tag, a commit, or a reference such as refs/convert/parquet.
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(
    rf"(?:datasets/)?(?P<repository>{_PART}/{_PART})(?:@(?P<revision>[\w][\w./+-]{{0,254}}))?", re.ASCII
)
_NAME = re.compile(r"[\w.+ -]{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A file elsewhere. Of S3, `place` is the bucket and `key` the key; of https, `place` is the whole URL."""

    kind: Literal["https", "s3"]
    place: str
    key: str = ""


class HubOrigin(BaseModel):
    """A data set of the Hub; what is None is the Hub's to choose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: str
    revision: str | None = None
    config: str | None = None
    split: str | None = None

    def at(self, commit: str) -> "HubOrigin":
        """Return the same at one commit."""
        return self.model_copy(update={"revision": commit})

    @property
    def shown(self) -> str:
        """Return how it is called in a sentence."""
        return shown(f"{_HUB}{self.repository}")

    @property
    def prefix(self) -> str:
        """Return how the paths of its files begin at its commit."""
        return f"hf://datasets/{self.repository}@{self.revision}/"

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        query = urlencode({name: value for name, value in (("config", self.config), ("split", self.split)) if value})
        return f"{_HUB}{self.repository}{revision}{query and f'?{query}'}"


def parse_origin(source: str, *, https: bool, buckets: frozenset[str], hub: bool) -> Origin | HubOrigin:
    """Return where a source leads.

    Args:
        source: as the caller wrote it.
        https: whether the operator lets callers' URLs be fetched.
        buckets: the S3 buckets that the operator lets callers read.
        hub: whether the operator lets data sets of the Hub be fetched.

    Raises:
        FetchFailed: the operator does not allow it, or it is nothing of the kind.
    """
    if is_hub(source):
        return _parse_hub(source, allowed=hub)
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


def is_hub(source: str) -> bool:
    """Tell whether a source names a data set of the Hub."""
    return source.startswith(_HUB)


def shown_source(source: str) -> str:
    """Return a source as it may be shown: a URL's query may hold a signature, the Hub's says which part was read."""
    return source if is_hub(source) else source.partition("?")[0]


def name_of(source: str) -> str:
    """Return the last part of a source's path: of a URL without what stands behind it, which may hold a signature.

    A data set of the Hub comes as Parquet, whatever it is there.
    """
    if is_hub(source):
        found = _REPOSITORY.match(source.removeprefix(_HUB))
        return f"{found['repository'].rpartition('/')[2]}.parquet" if found else ""
    path = httpx2.URL(source).path if not source.startswith("s3://") else source
    return path.rstrip("/").rpartition("/")[2]


def _parse_hub(source: str, *, allowed: bool) -> HubOrigin:
    if not allowed:
        fix = "Upload the files; or have the operator set LENSMITH_HUB_DATASETS=true, and data sets of the Hub are fetched."
        raise forbidden(source, "is on the Hub, and this server fetches no data sets from there", fix)
    place, _, query = source.removeprefix(_HUB).partition("?")
    found = _REPOSITORY.fullmatch(place)
    if found is None or ".." in place or "//" in place or "--" in found["repository"]:
        raise forbidden(source, "names no data set of the Hub", _HUB_SHAPE)
    try:
        parts = parse_qsl(query, strict_parsing=bool(query), keep_blank_values=True, max_num_fields=2)
    except ValueError as error:
        raise forbidden(source, "has a query that is not understood", _HUB_SHAPE) from error
    said = dict(parts)
    for name, value in parts:
        if name not in ("config", "split") or len(said) < len(parts):
            raise forbidden(source, f"says {shown(name)}; only config and split are known, each once", _HUB_SHAPE)
        if _NAME.fullmatch(value) is None:
            raise forbidden(source, f"says {shown(value)} as its {name}, which is no name of one", _HUB_SHAPE)
    return HubOrigin(repository=found["repository"], revision=found["revision"], **said)
