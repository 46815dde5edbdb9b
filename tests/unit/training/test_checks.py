import threading
from dataclasses import replace

import pytest

from core.child import StopRequested
from core.errors import FailureCode, WorkFailed
from training import checks
from vlm.ruler import Limits


@pytest.fixture
def base(load):
    return load()


@pytest.fixture
def check(base, encoder_of):

    def check(*rows, context_tokens=None, check_stop=lambda: None):
        limits = Limits.of(base)
        if context_tokens is not None:
            limits = replace(limits, context_tokens=context_tokens)
        return checks.check(rows, encoder_of(base), limits, check_stop=check_stop)

    return check


def refused(check, *rows, **limits):
    with pytest.raises(WorkFailed) as failure:
        check(*rows, **limits)
    assert failure.value.code is FailureCode.BAD_DATA
    assert failure.value.remedy
    return failure.value.detail


def test_the_limit_is_the_text_models_context(load):
    assert Limits.of(load()).context_tokens == 1024


def test_a_row_longer_than_the_context_is_refused_and_not_cut(check, album):
    short, long = album.question("a?", "b"), album.question("a" * 60, "b", images=2, row=7)
    (measure,) = check(long)
    size = measure.tokens
    assert check(short, long, context_tokens=size)[1].tokens == size
    detail = refused(check, short, long, context_tokens=size - 1)
    assert detail.startswith(f"Row 7 has {size} tokens, 14 of them for its images; the base model takes at most")


def test_a_row_without_an_answer_that_counts_is_refused(check, album):
    row = album.example(("user", "a"), ("assistant", "wrong", 0), row=3)
    assert refused(check, row).startswith("Row 3 has nothing to learn")


@pytest.mark.parametrize(
    "token", ["<image>", "<end_of_utterance>", "<fake_token_around_image>", "<row_1_col_1>", "<|im_end|>"]
)
def test_text_that_holds_a_reserved_token_is_refused(check, album, token):
    assert token in refused(check, album.question(f"what is {token}?", "b", row=4))


def test_a_row_with_more_images_than_places_is_refused(check, album):
    row = album.question("a?", "b", images=1, row=5).model_copy(update={"images": ()})
    assert refused(check, row) == "Row 5 has 0 images and 1 places for them."


def test_totals_add_up_over_all_rows(check, album, base, encoder_of):
    one, two = album.question("a?", "b", images=1), album.question("c?", "defg", images=2)
    alone = [*check(one), *check(two)]
    both = checks.Totals.of([one, two], check(one, two), encoder_of(base))
    assert both.tokens == sum(each.tokens for each in alone)
    assert both.labelled_tokens == sum(each.labelled_tokens for each in alone)
    assert (both.num_images, both.image_tokens_per_image) == (3, 7)
    assert both.supervised_ratio == both.labelled_tokens / both.tokens
    assert "; 1 tile and 7 tokens per image; " in both.sentence(context_tokens=1024)


def test_totals_without_images_have_no_tokens_per_image(check, album, base, encoder_of):
    row = album.question("a?", "b")
    totals = checks.Totals.of([row], check(row), encoder_of(base))
    assert totals.image_tokens_per_image == 0
    assert "; no images; " in totals.sentence(context_tokens=1024)
    assert not {"tiles_per_image", "tokens_per_image", "images"} & totals.document().keys()


def test_measuring_stops_when_asked_to(check, album):
    asked = threading.Event()
    asked.set()

    def check_stop():
        if asked.is_set():
            raise StopRequested

    with pytest.raises(StopRequested):
        check(album.question("a?", "b"), check_stop=check_stop)
