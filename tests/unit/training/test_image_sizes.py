import pytest

from training.image_sizes import Spread, saving_sentence
from vlm.image_options import ImageOptions


@pytest.fixture
def sentence(load, encoder_of):
    """Return a function that says what rows would save with `tiny` as a base that cuts as SmolVLM does."""

    def sentence(*examples, asked=None):
        base, asked = load(), asked or ImageOptions()
        base.family.set_image_options(base.processor, ImageOptions(longest_edge=128, split=True))
        base.family.set_image_options(base.processor, asked)
        encoder = encoder_of(base)
        tokens = sum(encoder.measure(example).tokens for example in examples)
        image = base.family.image_settings(base.processor)
        return saving_sentence(examples, encoder, tokens=tokens, image=image, asked=asked)

    return sentence


def test_of_small_pictures_both_ways_to_save_are_told(sentence, album):
    said = sentence(album.question("?", "red", images=3))
    assert "image.upscale false would leave" in said
    assert "image.longest_edge 64 would leave" in said


def test_of_large_pictures_only_the_edge_is_told(sentence, album):
    said = sentence(album.example(("user", f"@{album.image('red', (128, 128))}", "?"), ("assistant", "red")))
    assert "upscale" not in said
    assert "image.longest_edge 64 would leave" in said


def test_what_was_asked_for_is_not_talked_out_of(sentence, album):
    row = album.question("?", "red", images=1)
    assert sentence(row, asked=ImageOptions(longest_edge=128, upscale=True)) is None


def test_a_small_saving_is_not_told(sentence, album):
    assert sentence(album.question("?" * 300, "red", images=1)) is None


def test_rows_without_pictures_have_nothing_to_save(sentence, album):
    assert sentence(album.question("?", "red")) is None


def test_a_spread_reads_well():
    assert Spread.of([1, 1]).words("tile") == "1 tile"
    assert Spread.of([1, 5, 17, 17]).words("tile") == "1 to 17 tiles (median 5)"
    assert Spread.of([1127]).words("token") == "1,127 tokens"
