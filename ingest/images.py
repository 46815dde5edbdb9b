"""Bytes become a verified image: format and size from the header first, then every pixel decoded.

The canonical bytes are the original ones when they already are plain RGB or grey, upright and one frame; else the image
is turned upright, put on white where it is transparent, and written again (`ingest.canonical`).
"""

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image

from ingest.allowance import Allowance
from ingest.canonical import JPEG_FORMATS, changes_of, is_plain, rewritten, to_plain, turn_of
from ingest.damage import DAMAGE
from ingest.issues import Finding, ImageRefused, Rule
from ingest.limits import Limits

FORMATS = ("PNG", "JPEG", "WEBP")
THUMBNAIL_SIDE_PX = 32
_KNOWN: tuple[tuple[bytes, str], ...] = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\x00", "a TIFF"),
    (b"MM\x00*", "a TIFF"),
    (b"%PDF", "a PDF"),
    (b"<", "HTML, XML or SVG text"),
    (b"{", "JSON text"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the image itself"),
)
_DRAFT_SIDE_PX = 4 * THUMBNAIL_SIDE_PX  # at twice the thumbnail's, it differed from that of the same picture as PNG
_PIXELS = Allowance(50_000_000)  # being decoded at once; one that is put on white takes 20 bytes for each
_SAVE_AGAIN = "Open it and save it again as PNG or JPEG, or take the row out."


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedImage:
    """An image that decodes. `width_px` and `height_px` are those of the canonical bytes."""

    sha256: str
    data: bytes
    mime: str
    width_px: int
    height_px: int
    thumbnail: bytes  # 32 x 32 grey levels, by which `likeness` knows it again
    notes: tuple[Finding, ...] = ()


def verify(data: bytes, limits: Limits, *, sha256: str | None = None) -> VerifiedImage:
    """Decode an image and return its canonical bytes; `mime` is what the bytes that came in are.

    Args:
        data: a file.
        limits: the bounds.
        sha256: of the file, where it is known.

    Raises:
        ImageRefused: it is no PNG, JPEG or WEBP, is damaged, or its sides are out of bounds.
    """
    if len(data) > limits.max_image_bytes:
        raise _refused(
            Rule.IMAGE_TOO_LARGE, f"the image has {len(data):,} bytes; at most {limits.max_image_bytes:,} are taken."
        )
    _check_magic(data)
    try:
        return _canonical(data, limits, sha256)
    except (MemoryError, ImageRefused) as error:
        if isinstance(error, ImageRefused) and error.finding.rule is not Rule.CORRUPT_IMAGE:
            raise
    return _judged_alone(data, limits, sha256)


def _judged_alone(data: bytes, limits: Limits, sha256: str | None) -> VerifiedImage:
    """Look again while no other thread decodes: what failed may have been memory that they held, not the image."""
    try:
        with _PIXELS.hold(_PIXELS.size):
            return _decoded(_opened(data, limits), data, limits, sha256)
    except MemoryError as error:
        raise _refused(Rule.IMAGE_TOO_LARGE, "the image needs more memory than validation may use.") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Pillow warns of; our bound on pixels is below the one that it warns of.

    Python's filters belong to the whole process, so whoever starts threads is quiet around all of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(data: bytes, limits: Limits) -> Image.Image:
    """Open by the header, and check the sides before anything is decoded."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    _check_sides(image.width, image.height, limits)
    return image


def _opened(data: bytes, limits: Limits) -> Image.Image:
    with _damage_refused(limits):
        return _open(data, limits)


@contextmanager
def _damage_refused(limits: Limits) -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError as error:
        raise _too_many_pixels("the image", limits) from error
    except DAMAGE as error:
        message = "the image is cut off or damaged: it cannot be decoded."
        raise ImageRefused(Finding(rule=Rule.CORRUPT_IMAGE, message=message, fix=_SAVE_AGAIN)) from error


def _check_magic(data: bytes) -> None:
    if not data:
        raise ImageRefused(Finding(rule=Rule.CORRUPT_IMAGE, message="the image is empty (0 bytes).", fix=_SAVE_AGAIN))
    if mime_of(data) is not None:
        return
    known = "a HEIC, an AVIF or a film" if data[4:8] == b"ftyp" else "no image that we know"
    name = next((name for magic, name in _KNOWN if data.lstrip().startswith(magic)), known)
    message = f"the file is {name}; taken are PNG, JPEG and WEBP."
    raise ImageRefused(Finding(rule=Rule.UNSUPPORTED_IMAGE, message=message, fix=_SAVE_AGAIN))


def mime_of(data: bytes) -> str | None:
    """Return the media type that the first bytes stand for, of those that are taken."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/webp" if data.startswith(b"RIFF") and data[8:12] == b"WEBP" else None


def _check_sides(width: int, height: int, limits: Limits) -> None:
    size = f"the image is {width} x {height} pixels"
    if width * height > limits.max_image_pixels:
        raise _too_many_pixels(size, limits)
    if max(width, height) > limits.max_image_side_px:
        raise _refused(Rule.IMAGE_TOO_LARGE, f"{size}; a side may have at most {limits.max_image_side_px}.")
    if min(width, height) < limits.min_image_side_px:
        message = f"{size}; each side needs at least {limits.min_image_side_px}."
        raise ImageRefused(Finding(rule=Rule.IMAGE_TOO_SMALL, message=message, fix="Use a larger image."))


def _canonical(data: bytes, limits: Limits, sha256: str | None) -> VerifiedImage:
    if mime_of(data) == "image/webp":  # Pillow makes the whole canvas when it opens one
        with _PIXELS.hold(min(_webp_pixels(data), limits.max_image_pixels)):
            return _decoded(_opened(data, limits), data, limits, sha256)
    image = _opened(data, limits)
    with _PIXELS.hold(image.width * image.height):
        return _decoded(image, data, limits, sha256)


def _webp_pixels(data: bytes) -> int:
    """Return width times height as the header of a WEBP says (RFC 9649, sections 2.5 to 2.7)."""
    kind, field = data[12:16], data[20:30]
    if kind == b"VP8X":
        return (1 + int.from_bytes(field[4:7], "little")) * (1 + int.from_bytes(field[7:10], "little"))
    if kind == b"VP8L":
        bits = int.from_bytes(field[1:5], "little")
        return (1 + (bits & 0x3FFF)) * (1 + (bits >> 14 & 0x3FFF))
    return (int.from_bytes(field[6:8], "little") & 0x3FFF) * (int.from_bytes(field[8:10], "little") & 0x3FFF)


def _decoded(image: Image.Image, data: bytes, limits: Limits, sha256: str | None) -> VerifiedImage:
    with _damage_refused(limits):
        (width_px, height_px), notes = image.size, list(_shape_notes(image, limits))
        mime = Image.MIME["JPEG" if image.format in JPEG_FORMATS else str(image.format)]
        changes: list[Finding] = []
        is_plain_jpeg = _is_plain_jpeg(image)
        if not is_plain_jpeg or not _looks_whole(image):
            if is_plain_jpeg:
                image = _open(data, limits)  # one that was drafted stays small and grey
            image.load()
            changes = list(changes_of(image))
    if changes or any(note.rule is Rule.ANIMATED_IMAGE for note in notes):
        image, data = rewritten(image, max_bytes=limits.max_image_bytes)
        if len(data) > limits.max_image_bytes:  # else the mended data set could not be uploaded
            message = f"upright, without transparency, the image has {len(data):,} bytes; "
            raise _refused(Rule.IMAGE_TOO_LARGE, f"{message}at most {limits.max_image_bytes:,} are taken.")
        sha256 = None
        width_px, height_px = image.size
    return VerifiedImage(
        sha256=sha256 or hashlib.sha256(data).hexdigest(),
        data=data,
        mime=mime,
        width_px=width_px,
        height_px=height_px,
        thumbnail=_thumbnail(image),
        notes=(*notes, *changes),
    )


def _is_plain_jpeg(image: Image.Image) -> bool:
    return image.format in JPEG_FORMATS and is_plain(image) and turn_of(image) is None


def _looks_whole(image: Image.Image) -> bool:
    """Decode a JPEG in grey and small, down to an eighth of its sides; tell whether that went well.

    libjpeg reads every byte for it and leaves out only the arithmetic of colours and fine detail, which nobody looks at:
    a cut or a damage that Pillow refuses is refused all the same. Small and grey is also what the thumbnail needs.
    """
    image.draft("L", (_DRAFT_SIDE_PX, _DRAFT_SIDE_PX))
    try:
        image.load()
    except DAMAGE:
        return False
    return True


def _thumbnail(image: Image.Image) -> bytes:
    size = (THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX)
    if image.mode != "L":
        image = to_plain(image)
    small = image if image.size == size else image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return (small if small.mode == "L" else small.convert("L")).tobytes()


def _shape_notes(image: Image.Image, limits: Limits) -> list[Finding]:
    notes = []
    num_frames = int(getattr(image, "n_frames", 1))
    if num_frames > 1 and image.format not in JPEG_FORMATS:
        fix = "Nothing, if the first frame is the one you mean; else save the frame you mean as PNG."
        message = f"the image is animated; of {num_frames} frames the first is used."
        notes.append(Finding(rule=Rule.ANIMATED_IMAGE, message=message, fix=fix))
    ratio = max(image.size) / min(image.size)
    if ratio > limits.max_aspect_ratio:
        message = f"the image is {image.width} x {image.height} pixels, {ratio:.0f} times longer than wide."
        fix = "Crop it; the model sees it scaled into squares."
        notes.append(Finding(rule=Rule.EXTREME_ASPECT, message=message, fix=fix))
    return notes


def _too_many_pixels(what: str, limits: Limits) -> ImageRefused:
    megapixels = limits.max_image_pixels / 1e6
    return _refused(Rule.IMAGE_TOO_LARGE, f"{what} has too many pixels; at most {megapixels:g} million are taken.")


def _refused(rule: Rule, message: str) -> ImageRefused:
    return ImageRefused(Finding(rule=rule, message=message, fix="Scale it down, or take the row out."))
