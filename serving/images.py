"""From a `data:` URL to a picture, through the same gate as the pictures of a data set.

So a model sees at serving exactly the pixels that it would have seen in training: upright, on white, first frame.
Nothing but `data:` URLs is taken, so no request can make this process fetch an address or open a file.
"""

import base64
import binascii
import io
import re

from PIL import Image

from core.errors import Invalid
from ingest.images import quiet, verify
from ingest.issues import ImageRefused
from ingest.limits import MIB, Limits

MAX_ASPECT_RATIO = 100.0
MAX_REQUEST_PIXELS = 50_000_000  # 150 MB as RGB, for as long as the request waits
LIMITS = Limits(
    max_image_bytes=32 * MIB,
    max_image_pixels=25_000_000,
    min_image_side_px=4,  # a 1 x 1 picture became 17 tiles, and once crashed vLLM's engine (CVE-2026-22773)
)

_PREFIX = re.compile(r"data:image/[a-z0-9.+-]{1,32};base64,", re.IGNORECASE)


def decode_images(urls: tuple[str, ...]) -> tuple[Image.Image, ...]:
    """Return the pictures as upright RGB.

    Raises:
        Invalid: One of them cannot be taken; the pointer says which.
    """
    images, num_pixels = [], 0
    for index, url in enumerate(urls):
        image = _decode(url, f"#/images/{index}", max_pixels=MAX_REQUEST_PIXELS - num_pixels)
        num_pixels += image.width * image.height
        images.append(image)
    return tuple(images)


def _decode(url: str, pointer: str, *, max_pixels: int) -> Image.Image:
    try:
        with quiet():
            verified = verify(_payload(url, pointer), LIMITS)
    except ImageRefused as refused:
        message = refused.finding.message
        raise Invalid.field(pointer, message[:1].upper() + message[1:]) from refused
    width, height = verified.width_px, verified.height_px
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise Invalid.field(pointer, f"The image is {width} x {height}; it is too long and thin to be read.")
    if width * height > max_pixels:
        limit = MAX_REQUEST_PIXELS // 1_000_000
        raise Invalid.field(pointer, f"The images of one request may have {limit} million pixels together.")
    with Image.open(io.BytesIO(verified.data)) as image:
        return image.convert("RGB")


def _payload(url: str, pointer: str) -> bytes:
    found = _PREFIX.match(url)
    if found is None:
        raise Invalid.field(pointer, "An image must be a data:image/...;base64, URL.")
    try:
        return base64.b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid.field(pointer, "The image's base64 is not valid.") from error
