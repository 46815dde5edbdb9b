"""The images of a data set: each fetched, verified and stored once, under the sha256 of its canonical bytes."""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ingest.drafts import ImageReference
from ingest.guard import without_query
from ingest.images import VerifiedImage, verify
from ingest.issues import FetchFailed, Finding, ImageRefused, Rule, SourceFault, shown
from ingest.limits import Limits
from ingest.pictures import Pictures
from ingest.sources import Source

_DATA_URL = re.compile(r"data:(?P<mime>[\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^;,]*)*;base64,", re.ASCII | re.IGNORECASE)
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_USE_DATA_URL = 'Write "data:image/png;base64," and the base64 of the file.'
_MAX_SUGGESTIONS = 200  # as many as are listed; finding the nearest name takes up to 0.1 s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """What became of some bytes: the sha256 of the stored image, or why there is none."""

    sha256: str | None
    mime: str | None = None
    refusal: Finding | None = None


class Remote(Protocol):
    """Where images with a URL come from."""

    def fetch(self, url: str, *, max_bytes: int) -> bytes:
        """Return what lies at a URL; raises `FetchFailed`."""


class Gallery:
    """Stores images in a folder and remembers, by hash only, what it has seen.

    Without a `remote` nothing is ever fetched, and a URL is an error of its row.
    """

    def __init__(self, folder: Path, limits: Limits, pictures: Pictures, *, remote: Remote | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._limits = limits
        self._pictures = pictures
        self._remote = remote
        self._by_url: dict[str, _Verdict] = {}
        self._by_name: dict[str, _Verdict] = {}
        self._by_bytes: dict[bytes, _Verdict] = {}
        self._num_missing = 0
        self.num_fetched = 0
        self._stored_bytes = 0

    def resolve(
        self, reference: ImageReference, findings: list[Finding], *, source: Source, beside: str | None
    ) -> str | None:
        """Return the sha256 of the image that a row of the file `beside` names; `None` when it cannot be used.

        Notes about an image (rotated, converted, animated) are reported at the first row that names it, refusals at
        every row.
        """
        notes: list[Finding] = []
        try:
            verdict = self._verdict(reference.source, notes, source=source, beside=beside)
        except ImageRefused as refused:
            verdict = _Verdict(sha256=None, refusal=refused.finding)
        if verdict.refusal is not None:
            notes.append(verdict.refusal)
        findings.extend(note.at(reference.pointer) for note in notes)
        return verdict.sha256

    def unused(self, source: Source) -> list[str]:
        """Return the names of files that no row named."""
        return [name for name in source.files() if name not in self._by_name]

    def _verdict(self, image: str | bytes, notes: list[Finding], *, source: Source, beside: str | None) -> _Verdict:
        if isinstance(image, bytes):
            return self._look_at(image, notes)
        if image[:5].lower() == "data:":
            data, mime = _decode(image)
            verdict = self._look_at(data, notes)
            if mime is not None and verdict.mime is not None and mime != verdict.mime:
                message = f"the data: URL says {mime}, but its bytes are {verdict.mime}; the bytes were believed."
                notes.append(
                    Finding(rule=Rule.MIME_MISMATCH, message=message, fix=f'Write "data:{verdict.mime};base64,".')
                )
            return verdict
        if _REMOTE.match(image):
            return self._fetched(image.partition("#")[0], notes)
        return self._named(image, notes, source=source, beside=beside)

    def _named(self, path: str, notes: list[Finding], *, source: Source, beside: str | None) -> _Verdict:
        name = source.find(path, beside=beside)
        if name is None:
            raise ImageRefused(self._missing(path, source))
        if name not in self._by_name:
            try:
                self._by_name[name] = self._look_at(source.read(name), notes)
            except ImageRefused as refused:
                self._by_name[name] = _Verdict(sha256=None, refusal=refused.finding)
        return _of(path, self._by_name[name])

    def _fetched(self, url: str, notes: list[Finding]) -> _Verdict:
        if self._remote is None:
            raise ImageRefused(_not_fetched(url))
        if url not in self._by_url:
            try:
                data = self._remote.fetch(url, max_bytes=self._limits.max_image_bytes)
            except FetchFailed as failed:
                if failed.finding.rule is Rule.TOO_MUCH_DATA:  # of all rows together: never a row to be skipped
                    raise SourceFault(failed.finding) from failed
                self._by_url[url] = _Verdict(sha256=None, refusal=failed.finding)
            else:
                self.num_fetched += 1
                self._by_url[url] = _of(without_query(url), self._look_at(data, notes))
        return self._by_url[url]

    def _missing(self, path: str, source: Source) -> Finding:
        self._num_missing += 1
        if self._num_missing <= _MAX_SUGGESTIONS:
            return source.missing(path)
        message = f"the image {shown(path)} is not in the upload."
        return Finding(rule=Rule.MISSING_IMAGE, message=message, fix="Put the file in.")

    def _look_at(self, data: bytes, notes: list[Finding]) -> _Verdict:
        key = hashlib.sha256(data).digest()
        if key not in self._by_bytes:
            try:
                image = verify(data, self._limits)
            except ImageRefused as refused:
                self._by_bytes[key] = _Verdict(sha256=None, refusal=refused.finding)
            else:
                self._store(image)
                notes.extend(image.notes)
                self._by_bytes[key] = _Verdict(sha256=image.sha256, mime=image.mime)
        return self._by_bytes[key]

    def _store(self, image: VerifiedImage) -> None:
        if image.sha256 in self._pictures:
            return
        self._stored_bytes += len(image.data)
        if self._stored_bytes > self._limits.max_total_bytes:
            message = f"the images take more than {self._limits.max_total_bytes:,} bytes."
            raise SourceFault(Finding(rule=Rule.TOO_MUCH_DATA, message=message, fix="Split it into several data sets."))
        (self._folder / image.sha256).write_bytes(image.data)
        self._pictures.add(image)


def _decode(url: str) -> tuple[bytes, str | None]:
    """Return the bytes of a base64 data: URL and the media type it claims."""
    header = _DATA_URL.match(url)
    if header is None:
        message = f"the data: URL {shown(url[:40])} is not understood."
        raise ImageRefused(Finding(rule=Rule.BAD_DATA_URL, message=message, fix=_USE_DATA_URL))
    try:
        data = base64.b64decode(url[header.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"the base64 of the data: URL is damaged: {str(error)[:100]}."
        raise ImageRefused(Finding(rule=Rule.BAD_BASE64, message=message, fix=_USE_DATA_URL)) from error
    mime = header["mime"]
    return data, mime.lower().replace("image/jpg", "image/jpeg") if mime else None


def _of(path: str, verdict: _Verdict) -> _Verdict:
    """Return a verdict whose refusal says which file or URL it is about."""
    if verdict.refusal is None:
        return verdict
    message = f"{shown(path)}: {verdict.refusal.message}"
    refusal = Finding(rule=verdict.refusal.rule, message=message, fix=verdict.refusal.fix)
    return _Verdict(sha256=None, refusal=refusal)


def _not_fetched(url: str) -> Finding:
    return Finding(
        rule=Rule.REMOTE_IMAGE,
        message=f"the image {shown(without_query(url))} lies elsewhere; this server fetches no images from the network.",
        fix="Put the image in as a data: URL, or upload a zip that holds it and write its path; or have the operator "
        "set LENSMITH_REMOTE_IMAGES=true, and https images are fetched.",
    )
