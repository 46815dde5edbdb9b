"""The histogram of sizes: exact for few sizes, rounded up for many, never too low."""

import random

import pytest

from ingest.size_tally import SIZES_FILE, SizeTally
from vlm.rough_tokens import MESSAGE_TOKENS, rough_tokens
from vlm.size_histogram import SizeHistogram


class Turn:
    def __init__(self, text, *, answers, weight=1):
        self.text, self.answers, self.weight = text, answers, weight


class Row:
    def __init__(self, question, answer, weight=1):
        self.turns = [Turn(question, answers=False), Turn(answer, answers=True, weight=weight)]


def test_few_sizes_are_told_as_they_are():
    tally = SizeTally()
    for _ in range(3):
        tally.add(Row("Which colour?", "red"), [(480, 640)])
    tally.add(Row("Which colour?", "red", weight=0), [])
    found = tally.histogram([(480, 640), (100, 100)])
    question, answer = (rough_tokens(text) + MESSAGE_TOKENS for text in ("Which colour?", "red"))
    assert {(each.count, each.images_px, each.text_tokens, each.answer_tokens) for each in found.examples} == {
        (3, ((480, 640),), question + answer, answer),
        (1, (), question + answer, 0),
    }
    assert {(each.count, each.sides_px) for each in found.images} == {(1, (480, 640)), (1, (100, 100))}


@pytest.mark.parametrize("num_images", [(1, 1), (3, 3), (20, 20), (0, 4), (0, 8), (0, 30)])
def test_many_sizes_are_few_groups_that_are_never_smaller_than_their_rows(num_images):
    draw, tally, rows = random.Random(5), SizeTally(), []
    for _ in range(1500):
        sides = [(draw.randint(50, 4000), draw.randint(50, 4000)) for _ in range(draw.randint(*num_images))]
        words, answer = ("word " * round(2 ** draw.uniform(0, 11)) for _ in range(2))
        rows.append((sides, rough_tokens(words + answer)))
        tally.add(Row(words, answer), sides)
    found = tally.histogram(side for sides, _ in rows for side in sides)
    assert len(found.examples) <= 200
    assert len(found.images) <= 200
    assert sum(each.count for each in found.examples) == 1500
    assert sum(each.count for each in found.images) == sum(len(sides) for sides, _ in rows)
    assert max(len(each.images_px) for each in found.examples) >= max(len(sides) for sides, _ in rows)
    largest = max(height * width for sides, _ in rows for height, width in sides)
    assert max(height * width for each in found.examples for height, width in each.images_px) >= largest
    most = max(tokens for _, tokens in rows)
    assert most <= max(each.text_tokens for each in found.examples) <= 2 * (most + 20)
    mean = sum(tokens for _, tokens in rows) / 1500
    assert mean <= sum(each.count * each.text_tokens for each in found.examples) / 1500 <= 2.5 * mean
    assert len(found.model_dump_json()) < 200_000


def test_a_validation_leaves_the_histogram_beside_its_table(make, check, tmp_path):
    check(make.good_zip(12))
    found = SizeHistogram.model_validate_json((tmp_path / "out" / SIZES_FILE).read_text())
    assert {each.images_px for each in found.examples} == {((12, 16),)}
    assert sum(each.count for each in found.examples) == 12
    assert [(each.count, each.sides_px) for each in found.images] == [(12, (12, 16))]
