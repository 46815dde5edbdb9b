import base64
import io
import struct
import zlib

import pytest
from PIL import Image

from core.errors import Invalid
from ingest.images import verify
from ingest.limits import Limits
from serving.images import decode_images
from training.images import ImageFolder


def as_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def refusal(url: str) -> Invalid:
    with pytest.raises(Invalid) as caught:
        decode_images(("data:image/png;base64," + base64.b64encode(encoded(Image.new("RGB", (8, 8)))).decode(), url))
    assert caught.value.errors[0].pointer == "#/images/1"
    return caught.value


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_taken(file_format):
    (image,) = decode_images((as_url(encoded(Image.new("RGB", (20, 10), (250, 0, 0)), file_format), file_format),))
    assert (image.mode, image.size) == ("RGB", (20, 10))
    red, green, _ = image.getpixel((5, 5))
    assert red > 240
    assert green < 10


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_kind_of_pixel_becomes_rgb(mode):
    image = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    (decoded,) = decode_images((as_url(encoded(image, "JPEG" if mode == "CMYK" else "PNG")),))
    assert decoded.mode == "RGB"
    assert decoded.getpixel((4, 4)) == (255, 255, 255)


def test_a_turned_photograph_is_put_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    (decoded,) = decode_images((as_url(encoded(Image.new("RGB", (30, 10)), "JPEG", exif=exif)),))
    assert decoded.size == (10, 30)


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64",
        "",
        "hello",
        "http://127.0.0.1/a.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "data:text/html;base64,AAAA",
        "data:image/png,AAAA",
    ],
)
def test_nothing_but_a_data_url_is_taken(url):
    assert "data:image" in refusal(url).detail


@pytest.mark.parametrize("tail", ["@@@@", "AAA", "AA AA", "AAAA\n"])
def test_base64_is_strict(tail):
    assert "base64" in refusal(f"data:image/png;base64,{tail}").detail


@pytest.mark.parametrize("data", [b"GIF89a" + b"\0" * 64, b"%PDF-1.7", b"<svg/>", b"\0" * 1000])
def test_what_is_no_picture_is_refused(data):
    assert "PNG, JPEG and WEBP" in refusal(as_url(data)).detail


def test_a_cut_off_picture_is_refused():
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    for file_format in ("PNG", "JPEG", "WEBP"):
        data = encoded(image, file_format)
        refusal(as_url(data[: len(data) // 2]))


def test_a_decompression_bomb_is_refused_by_its_header():
    assert "too many pixels" in refusal(as_url(png_header(50_000, 50_000))).detail
    assert "6000 x 6000" in refusal(as_url(png_header(6000, 6000))).detail


def test_the_pixels_of_a_request_are_bounded_together():
    large = as_url(encoded(Image.new("L", (5000, 4900))))
    assert len(decode_images((large, large))) == 2
    with pytest.raises(Invalid) as caught:
        decode_images((large, large, large))
    assert [error.pointer for error in caught.value.errors] == ["#/images/2"]
    assert "50 million pixels" in caught.value.detail


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (4, 4000)])
def test_slivers_are_refused(size):
    refusal(as_url(encoded(Image.new("RGB", size))))


def test_an_animation_shows_its_first_frame_as_in_training():
    frames = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (0, 100, 200)]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    (image,) = decode_images((as_url(data, "webp"),))
    assert image.getpixel((8, 8)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("image", "file_format"),
    [
        (Image.effect_noise((40, 24), 80).convert("RGB"), "JPEG"),
        (Image.effect_noise((40, 24), 80).convert("RGBA"), "PNG"),
        (Image.effect_noise((40, 24), 80).convert("I;16"), "PNG"),
        (Image.effect_noise((40, 24), 80).convert("L"), "WEBP"),
    ],
)
def test_the_pixels_are_those_that_training_sees(tmp_path, image, file_format):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(image, file_format, exif=exif)
    stored = verify(data, Limits())
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / stored.sha256).write_bytes(stored.data)
    trained_on = ImageFolder(tmp_path).open_rgb(stored.sha256)
    (served,) = decode_images((as_url(data),))
    assert served.size == trained_on.size
    assert served.tobytes() == trained_on.tobytes()
