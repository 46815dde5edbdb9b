"""Rows of unequal length and with any number of images, in one batch (transformers 39914, ms-swift 6419)."""

import pytest
import torch

from tests.engine import alone, collator_of, pixel_vision
from vlm.image_options import ImageOptions
from vlm.labels import IGNORED


@pytest.fixture
def base(load):
    base = load()
    base.family.set_image_options(base.processor, ImageOptions(longest_edge=96, split=True))
    return base


@pytest.fixture
def rows(album):
    wide, tall = album.image("red", (90, 30)), album.image("blue", (30, 90))
    return [
        album.question("hi?", "hello"),
        album.example(("user", f"@{wide}", "what?"), ("assistant", "red")),
        album.example(("user", f"@{wide}", f"@{tall}", f"@{album.image('green')}", "which?"), ("assistant", "the 3rd")),
    ]


def collate(base, encoder_of, rows):
    encoder = encoder_of(base)
    return collator_of(base, rows, encoder, vision=pixel_vision(base, encoder)).batch(alone(*range(len(rows))))


def test_padding_is_on_the_right_and_carries_no_label(base, encoder_of, rows):
    batch = collate(base, encoder_of, rows)
    lengths = batch["attention_mask"].sum(dim=1)
    assert lengths[0] < lengths[1] < lengths[2] == batch["input_ids"].shape[1]
    for row, length in enumerate(lengths):
        assert batch["attention_mask"][row, :length].all()
        assert (batch["labels"][row, length:] == IGNORED).all()
        assert (batch["input_ids"][row, length:] == base.processor.tokenizer.pad_token_id).all()


def test_rows_with_no_one_and_three_images_score_in_a_batch_as_they_do_alone(base, encoder_of, rows):
    def logits(batch):
        with torch.no_grad():
            return base.model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits

    together = logits(collate(base, encoder_of, rows))
    for index, row in enumerate(rows):
        alone = logits(collate(base, encoder_of, [row]))
        torch.testing.assert_close(together[index, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-5)


def test_a_batch_without_any_image_has_no_pixels(base, encoder_of, rows):
    assert set(collate(base, encoder_of, rows[:1])) == {"input_ids", "attention_mask", "labels"}


def test_the_images_of_a_row_keep_their_order(base, encoder_of, rows, album):
    one, other = album.image("red"), album.image("blue")
    there = album.example(("user", f"@{one}", f"@{other}", "?"), ("assistant", "x"))
    back = album.example(("user", f"@{other}", f"@{one}", "?"), ("assistant", "x"))
    pixels = collate(base, encoder_of, [there, back])["pixel_values"]
    half = pixels.shape[1] // 2
    assert torch.equal(pixels[0, :half], pixels[1, half:])
    assert not torch.equal(pixels[0], pixels[1])
