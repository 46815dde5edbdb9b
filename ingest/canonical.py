"""What every stored image is: upright, plain RGB or grey, one frame; and no larger as a file than one may be uploaded."""

import io
import threading
from collections.abc import Iterator

from PIL import Image, JpegImagePlugin

from ingest.damage import DAMAGE
from ingest.issues import Finding, Rule

JPEG_FORMATS = ("JPEG", "MPO")  # telephones write MPO: a JPEG with a preview or a depth map behind it

_JPEG_QUALITY = 95
_ORIENTATION = 0x0112
# What undoes each orientation. Not `ImageOps.exif_transpose`, which writes the EXIF anew and stumbles over damage in it.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MAX_PACKED_PIXELS = 8_000_000  # WEBP without loss takes 40 bytes for each pixel, and a second for three million
_PACKING = threading.Lock()
_TRANSPARENT_MODES = ("RGBA", "LA", "PA", "La", "RGBa")


def is_plain(image: Image.Image) -> bool:
    """Tell whether an image is RGB or grey, and nothing of it transparent."""
    return image.mode in ("RGB", "L") and not _is_transparent(image)


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return what turns an image as its EXIF says; `None` when it already is upright or its EXIF is damaged."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except DAMAGE:
        return None


def changes_of(image: Image.Image) -> Iterator[Finding]:
    """Yield in what an image differs from its canonical form."""
    if turn_of(image) is not None:
        message = "the image was turned upright as its EXIF data says."
        yield Finding(rule=Rule.IMAGE_ROTATED, message=message, fix="Nothing to do.")
    if _is_transparent(image):
        message = "the image was put on white where it is transparent."
        yield Finding(
            rule=Rule.IMAGE_CONVERTED, message=message, fix="Nothing to do, if white is what should be there."
        )
    elif not is_plain(image):
        message = f"the image was converted from mode {image.mode} to {'L' if image.mode.startswith('I') else 'RGB'}."
        yield Finding(rule=Rule.IMAGE_CONVERTED, message=message, fix="Nothing to do.")


def to_plain(image: Image.Image) -> Image.Image:
    """Return an image as RGB or grey, on white where it is transparent."""
    if image.mode.startswith("I"):  # 16-bit grey: a plain conversion would clip everything above 255 to white
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if _is_transparent(image):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode in ("RGB", "L") else image.convert("RGB")


def rewritten(image: Image.Image, *, max_bytes: int) -> tuple[Image.Image, bytes]:
    """Return an image in its canonical form, and the first of its encodings that fits, else the last.

    A JPEG stays one, since a photograph turned upright would grow about sixfold as PNG: nearly without loss, or else with
    the tables that it came with. Everything else is PNG, or else WEBP without loss.
    """
    turn = turn_of(image)
    plain = to_plain(image if turn is None else image.transpose(turn))
    encodings = _as_jpeg(plain, like=image) if image.format in JPEG_FORMATS else _without_loss(plain)
    data = b""
    for data in encodings:
        if len(data) <= max_bytes:
            break
    return plain, data


def _is_transparent(image: Image.Image) -> bool:
    return "transparency" in image.info or image.mode in _TRANSPARENT_MODES


def _as_jpeg(plain: Image.Image, *, like: Image.Image) -> Iterator[bytes]:
    yield _saved(plain, "JPEG", quality=_JPEG_QUALITY, subsampling=0, exif=b"")
    tables = getattr(like, "quantization", None)
    if tables and plain.mode == like.mode:
        sampling = JpegImagePlugin.get_sampling(like)
        yield _saved(plain, "JPEG", qtables=tables, subsampling=max(0, sampling), exif=b"")


def _without_loss(plain: Image.Image) -> Iterator[bytes]:
    plain.info = {}
    yield _saved(plain, "PNG")
    if plain.width * plain.height <= _MAX_PACKED_PIXELS:
        with _PACKING:
            packed = _saved(plain, "WEBP", lossless=True, quality=50, method=2)
        yield packed


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
