"""The images of a data set: each fetched, verified and packed once, known by the sha256 of its canonical bytes."""

import base64
import binascii
import hashlib
import re
from concurrent.futures import Future
from dataclasses import dataclass
from typing import IO, Protocol

from ingest.drafts import ImageReference
from ingest.guard import without_query
from ingest.images import VerifiedImage, verify
from ingest.issues import FetchFailed, Finding, ImageRefused, Rule, SourceFault, shown
from ingest.limits import Limits
from ingest.pictures import Pictures
from ingest.sources import Source
from ingest.threads import Threads

_DATA_URL = re.compile(r"data:(?P<mime>[\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^;,]*)*;base64,", re.ASCII | re.IGNORECASE)
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_USE_DATA_URL = 'Write "data:image/png;base64," and the base64 of the file.'
_MAX_URL_CHARS = 8192
_MAX_SUGGESTIONS = 200  # as many as are listed; finding the nearest name takes up to 0.1 s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """What became of some bytes: the sha256 of the stored image, or why there is none."""

    sha256: str | None
    mime: str | None = None
    refusal: Finding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """An image that was verified, and the sha256 of the bytes that came in; or why there is none.

    No exception: its traceback would hold the pixels of an image that is refused until its row is settled.
    """

    image: VerifiedImage | None = None
    key: bytes = b""
    refusal: Finding | None = None


class _Sight:
    """An image that is being looked at until there is a verdict; all places that show it share one."""

    __slots__ = ("pending", "verdict")

    def __init__(self, pending: "Future[_Seen] | None" = None, *, refusal: Finding | None = None) -> None:
        self.pending = pending
        self.verdict = _Verdict(sha256=None, refusal=refusal) if pending is None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One image of a row, begun. `settle` says what became of it.

    Attributes:
        pointer: Its place in the row.
        is_running: Whether other threads were asked to work for it.
        held_bytes: About what it holds in memory until it is settled.
    """

    pointer: str
    is_running: bool
    held_bytes: int
    sight: _Sight
    called: str | None = None
    claimed_mime: str | None = None


class Remote(Protocol):
    """Where images with a URL come from; asked by several threads at once."""

    def fetch(self, url: str, *, max_bytes: int) -> bytes:
        """Return what lies at a URL; raises `FetchFailed`."""


class Gallery:
    """Puts images into a pack and remembers, by hash only, what it has seen.

    Every image is begun (`look`) and, in the same order, settled (`settle`); between the two, threads decode and fetch.
    Without a `remote` nothing is ever fetched, and a URL is an error of its row.
    """

    def __init__(
        self, pack: IO[bytes], limits: Limits, pictures: Pictures, threads: Threads, *, remote: Remote | None = None
    ) -> None:
        self._pack = pack
        self._limits = limits
        self._pictures = pictures
        self._threads = threads
        self._remote = remote
        self._by_url: dict[str, _Sight] = {}
        self._by_name: dict[str, _Sight] = {}
        self._by_bytes: dict[bytes, _Sight] = {}
        self._noted: set[bytes] = set()
        self._num_missing = 0
        self._stored_bytes = 0

    def look(self, reference: ImageReference, *, source: Source, beside: str | None) -> Look:
        """Begin with the image that a row of the file `beside` names."""
        try:
            return self._look(reference, reference.source, source=source, beside=beside)
        except ImageRefused as refused:
            sight = _Sight(refusal=refused.finding)
            return Look(pointer=reference.pointer, is_running=False, held_bytes=0, sight=sight)

    def settle(self, look: Look, findings: list[Finding]) -> str | None:
        """Return the sha256 of an image; `None` when it cannot be used.

        Notes about an image (rotated, converted, animated) are reported at the first row that names it, refusals at
        every row.
        """
        notes: list[Finding] = []
        verdict = look.sight.verdict or self._judge(look.sight, notes)
        if verdict.refusal is not None:
            notes.append(_called(look.called, verdict.refusal))
        if look.claimed_mime is not None and verdict.mime is not None and look.claimed_mime != verdict.mime:
            message = (
                f"the data: URL says {look.claimed_mime}, but its bytes are {verdict.mime}; the bytes were believed."
            )
            fix = f'Write "data:{verdict.mime};base64,".'
            notes.append(Finding(rule=Rule.MIME_MISMATCH, message=message, fix=fix))
        findings.extend(note.at(look.pointer) for note in notes)
        return verdict.sha256

    @property
    def num_fetched(self) -> int:
        """Return how many good images were fetched."""
        return sum(sight.verdict is not None and sight.verdict.sha256 is not None for sight in self._by_url.values())

    def unused(self, source: Source) -> list[str]:
        """Return the names of files that no row named."""
        return [name for name in source.files() if name not in self._by_name]

    def _look(self, reference: ImageReference, image: str | bytes, *, source: Source, beside: str | None) -> Look:
        called = mime = None
        held_bytes = len(image)
        if isinstance(image, bytes):
            sight = self._of_bytes(image)
        elif image[:5].lower() == "data:":
            data, mime = _decode(image)
            sight = self._of_bytes(data)
        elif _REMOTE.match(image):
            sight = self._of_url(image.partition("#")[0])
        else:
            called = image
            sight, read_bytes = self._of_name(image, source=source, beside=beside)
            held_bytes += read_bytes
        return Look(
            pointer=reference.pointer,
            is_running=sight.verdict is None,
            held_bytes=held_bytes,
            sight=sight,
            called=called,
            claimed_mime=mime,
        )

    def _of_bytes(self, data: bytes) -> _Sight:
        key = hashlib.sha256(data).digest()
        sight = self._by_bytes.get(key)
        if sight is None:
            self._by_bytes[key] = sight = _Sight(self._threads.decode(len(data), _verified, data, key, self._limits))
        return sight

    def _of_name(self, path: str, *, source: Source, beside: str | None) -> tuple[_Sight, int]:
        name = source.find(path, beside=beside)
        if name is None:
            raise ImageRefused(self._missing(path, source))
        known = self._by_name.get(name)
        if known is not None:
            return known, 0
        try:
            data = source.read(name)
        except ImageRefused as refused:
            self._by_name[name] = _Sight(refusal=refused.finding)
            return self._by_name[name], 0
        self._by_name[name] = self._of_bytes(data)
        return self._by_name[name], len(data)

    def _of_url(self, url: str) -> _Sight:
        if self._remote is None:
            raise ImageRefused(_not_fetched(url))
        if len(url) > _MAX_URL_CHARS:
            message = f"the URL {shown(without_query(url))} has more than {_MAX_URL_CHARS:,} characters."
            raise ImageRefused(Finding(rule=Rule.URL_FORBIDDEN, message=message, fix="Write a shorter one."))
        if url not in self._by_url:
            self._by_url[url] = _Sight(self._threads.fetch(_fetched, self._remote, url, self._limits))
        return self._by_url[url]

    def _judge(self, sight: _Sight, notes: list[Finding]) -> _Verdict:
        """Wait for what was begun, store it, and keep the verdict only."""
        assert sight.pending is not None
        seen = sight.pending.result()
        if seen.image is None:
            assert seen.refusal is not None
            if seen.refusal.rule is Rule.TOO_MUCH_DATA:  # of all rows together: never a row to be skipped
                raise SourceFault(seen.refusal)
            verdict = _Verdict(sha256=None, refusal=seen.refusal)
        else:
            self._store(seen.image)
            self._by_bytes.setdefault(seen.key, sight)
            if seen.image.notes and seen.key not in self._noted:
                self._noted.add(seen.key)
                notes.extend(seen.image.notes)
            verdict = _Verdict(sha256=seen.image.sha256, mime=seen.image.mime)
        sight.verdict, sight.pending = verdict, None
        return verdict

    def _missing(self, path: str, source: Source) -> Finding:
        self._num_missing += 1
        if self._num_missing <= _MAX_SUGGESTIONS:
            return source.missing(path)
        message = f"the image {shown(path)} is not in the upload."
        return Finding(rule=Rule.MISSING_IMAGE, message=message, fix="Put the file in.")

    def _store(self, image: VerifiedImage) -> None:
        if image.sha256 in self._pictures:
            return
        self._stored_bytes += len(image.data)
        if self._stored_bytes > self._limits.max_total_bytes:
            message = f"the images take more than {self._limits.max_total_bytes:,} bytes."
            raise SourceFault(Finding(rule=Rule.TOO_MUCH_DATA, message=message, fix="Split it into several data sets."))
        self._pack.write(image.data)
        self._pictures.add(image)


def _verified(data: bytes, key: bytes, limits: Limits) -> _Seen:
    try:
        return _Seen(image=verify(data, limits, sha256=key.hex()), key=key)
    except ImageRefused as refused:
        return _Seen(refusal=refused.finding)


def _fetched(remote: Remote, url: str, limits: Limits) -> _Seen:
    try:
        data = remote.fetch(url, max_bytes=limits.max_image_bytes)
    except FetchFailed as failed:
        return _Seen(refusal=failed.finding)
    seen = _verified(data, hashlib.sha256(data).digest(), limits)
    return seen if seen.refusal is None else _Seen(refusal=_called(without_query(url), seen.refusal))


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


def _called(path: str | None, refusal: Finding) -> Finding:
    """Return a refusal that says which file or URL it is about."""
    if path is None:
        return refusal
    return Finding(rule=refusal.rule, message=f"{shown(path)}: {refusal.message}", fix=refusal.fix)


def _not_fetched(url: str) -> Finding:
    return Finding(
        rule=Rule.REMOTE_IMAGE,
        message=f"the image {shown(without_query(url))} lies elsewhere, and no images are fetched from the network here.",
        fix="Put the image in as a data: URL, or upload a zip that holds it and write its path; or have https "
        "images fetched: a server does so with LENSMITH_REMOTE_IMAGES=true, `lensmith datasets check` with --fetch.",
    )
