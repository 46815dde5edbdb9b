"""Parts of the training engine, put together as a run does, for tests that need only some of them."""

from contextlib import nullcontext

from training.collator import Collator
from training.vision import FrozenVision, PixelVision, Tower


def tower_of(base, encoder, *, trains_connector=False):
    """Return the frozen tower of a base, in float32."""
    return Tower(base.model, base.family, encoder.pixels, autocast=nullcontext, trains_connector=trains_connector)


def collator_of(base, rows, encoder, *, vision=None):
    """Return a collator; images come from the frozen tower unless said otherwise."""
    vision = vision or FrozenVision(tower_of(base, encoder))
    return Collator(rows, encoder=encoder, vision=vision, pad_token_id=base.processor.tokenizer.pad_token_id)


def pixel_vision(base, encoder):
    """Return images as pixels, for a vision tower in the graph."""
    return PixelVision(base.family, encoder.pixels, device="cpu")


def alone(*rows):
    """Return a micro-batch with a row for each example."""
    return tuple((row,) for row in rows)
