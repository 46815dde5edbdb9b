import pytest

from core.errors import WorkFailed
from vlm.image_options import ImageOptions
from vlm.labels import IGNORED


def learned_text(base, encoded):
    return base.processor.tokenizer.decode([label for label in encoded.labels if label != IGNORED])


def test_an_answer_at_the_end_of_many_image_tokens_is_kept_whole(load, album, encoder_of):
    """TRL's default `max_length` of 1024 would cut here: the images alone take more (TRL issue 5904)."""
    base = load()
    base.family.set_image_options(base.processor, ImageOptions(longest_edge=192, split=True))
    wide = [f"@{album.image('red', (192, 192))}"] * 5
    encoded = encoder_of(base).encode(album.example(("user", *wide, "Which?"), ("assistant", "seven")))
    assert len(encoded.input_ids) > 1024
    assert learned_text(base, encoded) == " seven<end_of_utterance>"


def test_image_and_structural_tokens_never_carry_a_label(load, album, encoder_of):
    base = load()
    base.family.set_image_options(base.processor, ImageOptions(longest_edge=96, split=True))
    row = album.example(("user", "see"), ("assistant", f"@{album.image(size=(90, 60))}", "here"))
    encoded = encoder_of(base).encode(row)
    structural = base.family.masked_token_ids(base.processor.tokenizer)
    assert structural & set(encoded.input_ids)
    assert not structural & set(encoded.labels)
    assert "here<end_of_utterance>" in learned_text(base, encoded)


def test_answers_between_images_are_found_after_the_images_grew(load, album, encoder_of):
    base = load()
    red, blue = album.image("red"), album.image("blue")
    row = album.example(
        ("user", f"@{red}", "first?"),
        ("assistant", "rot"),
        ("user", "and", f"@{blue}", f"@{red}", "then?"),
        ("assistant", "blau 🙂"),
    )
    encoded = encoder_of(base).encode(row)
    assert learned_text(base, encoded) == " rot<end_of_utterance> blau 🙂<end_of_utterance>"


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("size", [(10, 10), (100, 30), (30, 100), (64, 64), (65, 33), (300, 200)])
def test_the_measured_size_is_the_encoded_size(load, album, encoder_of, size, split):
    base = load()
    base.family.set_image_options(base.processor, ImageOptions(longest_edge=96, split=split))
    encoder = encoder_of(base)
    row = album.example(("user", f"@{album.image('red', size)}", "what?"), ("assistant", "red"))
    encoded, measure = encoder.encode(row), encoder.measure(row)
    assert measure.tokens == len(encoded.input_ids)
    assert measure.labelled_tokens == len(encoded.labels) - encoded.labels.count(IGNORED)


def test_splitting_is_a_choice_that_changes_the_tokens_of_an_image(load, album, encoder_of):
    whole, tiled = load(), load()
    whole.family.set_image_options(whole.processor, ImageOptions(split=False))
    tiled.family.set_image_options(tiled.processor, ImageOptions(longest_edge=128, split=True))
    row = album.question("?", "red", images=1)
    assert encoder_of(whole).measure(row).image_tokens == 4 + 3
    assert encoder_of(tiled).measure(row).image_tokens > 12 * 4
    assert tiled.family.image_settings(tiled.processor)["longest_edge"] == 128


def test_more_tiles_than_there_are_tokens_for_are_refused_with_the_largest_edge(load):
    """The processor writes `<row_7_col_1>` as plain text: 825 tokens were measured where 1,497 were trained on."""
    base = load()
    with pytest.raises(WorkFailed, match="6 x 6 tiles of 32 pixels") as refused:
        base.family.set_image_options(base.processor, ImageOptions(longest_edge=193, split=True))
    assert "image.longest_edge to 192" in refused.value.remedy
    whole = load()
    whole.family.set_image_options(whole.processor, ImageOptions(longest_edge=193, split=False))


def test_unset_image_options_keep_what_the_base_came_with(load):
    base = load()
    before = base.family.image_settings(base.processor)
    base.family.set_image_options(base.processor, ImageOptions())
    assert base.family.image_settings(base.processor) == before
