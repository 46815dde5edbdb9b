"""The code that pretrained the demo's tower: it still draws, scores and asks, and knows no data set but its own."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

import vlm.demo
from vlm.demo import captions, glyphs, strokes, tower


@pytest.fixture(scope="module")
def sources() -> tower.Sources:
    """What stage 1 learns from, without fonts: shapes stand where printed characters do."""
    rng = np.random.default_rng(0)
    written, symbols = strokes.draw_digits(40, rng=rng)
    shapes = glyphs.draw_shapes(40, rng=rng)
    return tower.Sources(
        characters=shapes, shapes=shapes, digits=torch.from_numpy(written), digit_symbols=torch.from_numpy(symbols)
    )


def test_a_step_of_the_tower_learns_from_every_kind_of_picture(sources):
    generator = torch.Generator().manual_seed(1)
    pictures, symbols = tower.batch_of(sources, 32, generator)
    assert pictures.pixels.shape == (32, 3, 64, 64)
    assert pictures.pixels.abs().max() <= 1
    eye = tower.Eye()
    eye.loss(pictures, torch.from_numpy(glyphs.IDENTITY_OF)[symbols]).backward()
    gradients = [parameter.grad for parameter in eye.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_seed_draws_the_same_pictures_again(sources):
    one, other = (tower.batch_of(sources, 16, torch.Generator().manual_seed(5))[0].pixels for _ in range(2))
    assert torch.equal(one, other)


def test_every_symbol_has_a_name_and_two_different_questions():
    for symbol in range(len(glyphs.CHARACTERS) + len(glyphs.SHAPES)):
        first, second = captions.ask(symbol, 0, 1, rng=random.Random(symbol))
        assert first.answer != second.answer
        assert captions.name_of(symbol)[0] in ("digit", "letter", "shape")


def test_the_pretraining_knows_nothing_of_the_digits_that_are_measured():
    code = "".join(path.read_text() for path in Path(vlm.demo.__file__).parent.glob("*.py"))
    assert "sklearn" not in code
    assert "load_digits" not in code
