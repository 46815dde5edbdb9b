import hashlib
import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ingest import images
from ingest.images import quiet, verify
from ingest.issues import ImageRefused, Rule
from ingest.limits import Limits

LIMITS = Limits()


@pytest.fixture(autouse=True)
def _quiet():
    with quiet():
        yield


def _rules(data):
    return [note.rule for note in verify(data, LIMITS).notes]


def _decoded(data):
    image = Image.open(io.BytesIO(verify(data, LIMITS).data))
    image.load()
    return image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_plain_image_keeps_its_bytes(make, kind, mode):
    data = make.image(3, mode=mode, kind=kind)
    image = verify(data, LIMITS)
    assert image.data == data
    assert image.sha256 == hashlib.sha256(data).hexdigest()
    assert image.mime == f"image/{kind.lower()}"
    assert (image.width_px, image.height_px, image.notes) == (16, 12, ())


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "1", "I;16"])
def test_other_modes_become_rgb_or_grey_and_are_noted(make, mode):
    data = make.image(200, mode="L", kind="PNG") if mode == "I;16" else make.image(200, mode=mode)
    if mode == "I;16":
        buffer = io.BytesIO()
        Image.new("I;16", (16, 12), 257 * 100).save(buffer, "PNG")
        data = buffer.getvalue()
    assert _rules(data) == [Rule.IMAGE_CONVERTED]
    image = _decoded(data)
    assert image.mode in ("RGB", "L")
    assert _rules(verify(data, LIMITS).data) == []  # the canonical form is a fixed point


def test_sixteen_bit_grey_keeps_its_brightness():
    buffer = io.BytesIO()
    Image.new("I;16", (16, 12), 257 * 100).save(buffer, "PNG")
    assert _decoded(buffer.getvalue()).convert("L").getpixel((0, 0)) in (99, 100)


def test_cmyk_jpeg_becomes_rgb_jpeg(make):
    image = _decoded(make.image(mode="CMYK", kind="JPEG"))
    assert (image.format, image.mode) == ("JPEG", "RGB")


def test_transparent_parts_become_white():
    buffer = io.BytesIO()
    Image.new("RGBA", (16, 12), (10, 20, 30, 0)).save(buffer, "PNG")
    assert _decoded(buffer.getvalue()).getpixel((0, 0)) == (255, 255, 255)


def test_a_colour_that_stands_for_transparent_becomes_white(make):
    data = make.image(9, transparency=(9, 0, 77))
    assert _rules(data) == [Rule.IMAGE_CONVERTED]
    assert _decoded(data).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_image_is_turned_upright_as_its_exif_says(make, kind, mode):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = make.image(mode=mode, kind=kind, exif=exif.tobytes())
    image = verify(data, LIMITS)
    assert [note.rule for note in image.notes] == [Rule.IMAGE_ROTATED]
    assert (image.width_px, image.height_px) == (12, 16)
    turned = _decoded(data)
    assert (turned.format, turned.mode, turned.size) == (kind, mode, (12, 16))
    assert 0x0112 not in turned.getexif()


def test_an_upright_image_with_exif_keeps_its_bytes(make):
    exif = Image.Exif()
    exif[0x0112] = 1
    data = make.image(kind="JPEG", exif=exif.tobytes())
    assert verify(data, LIMITS).data == data


def test_damaged_exif_does_not_refuse_a_good_image(make):
    assert _rules(make.image(kind="JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")) == []


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animated_image_the_first_frame_is_used_and_noted(kind):
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "green", "blue")]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], lossless=True)
    data = buffer.getvalue()
    assert Rule.ANIMATED_IMAGE in _rules(data)
    red, green, _ = _decoded(data).convert("RGB").getpixel((3, 3))
    assert red > 200
    assert green < 50
    assert getattr(_decoded(data), "n_frames", 1) == 1


def test_a_telephones_jpeg_with_a_second_picture_is_a_plain_jpeg():
    buffer = io.BytesIO()
    frame = Image.new("RGB", (16, 12), "red")
    frame.save(buffer, "MPO", save_all=True, append_images=[frame])
    image = verify(buffer.getvalue(), LIMITS)
    assert (image.data, image.mime, image.notes) == (buffer.getvalue(), "image/jpeg", ())


def test_a_sliver_is_a_warning(make):
    assert _rules(make.image(size=(300, 10))) == [Rule.EXTREME_ASPECT]


def test_a_bomb_is_refused_from_its_header_before_its_pixels_are_made(make):
    data = make.image(size=(10_000, 10_000), mode="1")
    tracemalloc.start()
    with pytest.raises(ImageRefused) as caught:
        verify(data, LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.finding.rule is Rule.IMAGE_TOO_LARGE
    assert "10000 x 10000" in caught.value.finding.message
    assert peak < 2 * 1024 * 1024


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_image_with_any_bytes_changed_or_cut_is_taken_or_refused_but_never_crashes(make, kind, data):
    changed = bytearray(make.image(5, size=(40, 30), kind=kind))
    for _ in range(data.draw(st.integers(0, 6))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(changed)))
    try:
        image = verify(bytes(changed[:end]), LIMITS)
    except ImageRefused as refused:
        rule = refused.finding.rule
    else:
        rule = None
        assert image.sha256 == hashlib.sha256(image.data).hexdigest()
    assert rule in {None, Rule.CORRUPT_IMAGE, Rule.UNSUPPORTED_IMAGE, Rule.IMAGE_TOO_LARGE, Rule.IMAGE_TOO_SMALL}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_agrees_with_pillows_own_turning(orientation):
    image = Image.new("RGB", (16, 12))
    image.putdata([(x * 16, y * 20, 0) for y in range(12) for x in range(16)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif.tobytes())
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue())))
    assert _decoded(buffer.getvalue()).tobytes() == expected.tobytes()


def test_an_exif_value_that_cannot_be_written_back_does_not_refuse_a_good_image(make):
    entry = b"\x01\x12\x00\x02\x00\x00\x00\x04abc\x00"  # the orientation, as text
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01" + entry + b"\x00\x00\x00\x00"
    assert _rules(make.image(kind="JPEG", exif=exif)) == []


def _jpegs():
    noise = Image.effect_noise((96, 80), 90)
    colours = Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180)))
    for options in ({}, {"progressive": True}, {"keep_rgb": True}, {"subsampling": 0}, {"restart_marker_blocks": 4}):
        for image in (colours, noise):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", **options)
            yield buffer.getvalue()


def _loads(data):
    try:
        Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError, ValueError):
        return False
    return True


@pytest.mark.parametrize("data", list(_jpegs()))
def test_the_quick_decoding_refuses_the_damage_that_a_full_one_refuses(data):
    assert _loads(data)
    cuts = [data[:at] for at in range(len(data) - 1, 200, -len(data) // 40)]
    flips = [data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :] for at in range(2, len(data), len(data) // 60)]
    for damaged in cuts + flips:
        try:
            verify(damaged, LIMITS)
            is_taken = True
        except ImageRefused:
            is_taken = False
        assert is_taken == _loads(damaged)


@pytest.mark.parametrize(
    "options", [{}, {"lossless": True}, {"alpha": 1}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}]
)
def test_the_pixels_of_a_webp_are_known_before_it_is_opened(options):
    """Pillow makes the canvas of a WEBP when it opens it: 200 MB for one that must still wait for its turn."""
    size = (320, 241)
    image = Image.new("RGBA" if options.pop("alpha", 0) else "RGB", size, (9, 9, 9))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **options)
    assert images._webp_pixels(buffer.getvalue()) == size[0] * size[1]


def test_what_failed_while_others_held_the_memory_is_looked_at_again_alone(make, monkeypatch):
    """Eight threads under the child's bound called good images damaged, and another number of threads did not."""
    held, decoded = [], images._decoded

    def short_of_memory(*arguments):
        held.append(images._PIXELS._held)
        if len(held) == 1:
            raise MemoryError
        return decoded(*arguments)

    monkeypatch.setattr(images, "_decoded", short_of_memory)
    assert verify(make.image(1), LIMITS).width_px == 16
    assert held == [16 * 12, images._PIXELS.size]


def test_what_is_stored_is_never_too_large_to_be_uploaded_again():
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 4), np.uint8)
    noise[:, :, 3] = 255 - noise[:, :, 3] // 128
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "WEBP", quality=80)
    as_png = len(verify(buffer.getvalue(), LIMITS).data)
    bound = LIMITS.model_copy(update={"max_image_bytes": as_png - 1})
    image = verify(buffer.getvalue(), bound)
    assert len(image.data) < as_png
    assert images.mime_of(image.data) == "image/webp"
    with pytest.raises(ImageRefused, match="without transparency, the image has"):
        verify(buffer.getvalue(), bound.model_copy(update={"max_image_bytes": len(buffer.getvalue())}))


def test_a_photograph_on_its_side_keeps_the_tables_it_came_with_when_it_would_grow_too_large():
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (400, 500, 3), np.uint8))
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    noise.save(buffer, "JPEG", quality=70, exif=exif.tobytes())
    data = buffer.getvalue()
    assert len(verify(data, LIMITS).data) > 2 * len(data)
    image = verify(data, LIMITS.model_copy(update={"max_image_bytes": int(1.2 * len(data))}))
    assert (image.width_px, image.height_px) == (400, 500)
    assert len(image.data) <= 1.2 * len(data)
