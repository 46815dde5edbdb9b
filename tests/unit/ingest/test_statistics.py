import pytest

from ingest.statistics import spread


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7], (7, 7, 7, 7)),
        ([2, 1], (1, 1, 2, 2)),
        (range(100, 0, -1), (1, 50, 95, 100)),
        (range(1, 22), (1, 11, 20, 21)),
        ([0] * 96 + [9] * 4, (0, 0, 0, 9)),
        ([0] * 94 + [9] * 6, (0, 0, 9, 9)),
    ],
)
def test_a_spread_is_made_of_numbers_that_are_there(values, expected):
    found = spread(values)
    assert (found.min, found.p50, found.p95, found.max) == expected


def test_there_is_no_spread_of_nothing():
    assert spread([]) is None


def test_an_answer_of_weight_zero_is_text_but_no_answer(make, check):
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": f"{i:03}?"},
                {"role": "assistant", "content": "No answer.", "weight": 0},
                {"role": "user", "content": "Sure?"},
                {"role": "assistant", "content": "Yes."},
            ]
        }
        for i in range(12)
    ]
    statistics = check(make.lines(rows)).statistics
    assert statistics.question_chars.model_dump() == {"min": 4, "p50": 4, "p95": 5, "max": 5}
    assert statistics.answer_chars.max == 4
    assert statistics.answer_chars_ratio == round(4 / (9 + 4 + 10 + 5 + 4), 4)


def test_a_set_without_images_has_no_sides(make, check):
    rows = [{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}] * 10
    statistics = check(make.lines(rows)).statistics
    assert (statistics.image_long_side_px, statistics.image_short_side_px) == (None, None)
    assert statistics.images_per_example.max == 0
