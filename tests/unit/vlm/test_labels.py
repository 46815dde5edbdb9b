"""The mask as arithmetic, on a template simple enough to read; `tests/numerics` has the real ones."""

import pytest

from core.errors import WorkFailed
from vlm import labels
from vlm.conversation import Message, TextPart
from vlm.labels import IGNORED, Replacement, Span


def render(messages, *, open_answer):
    text = "".join(f"{m.role[0].upper()}: {m.text}#\n" for m in messages)
    return text + ("A:" if open_answer else "")


def turn(role, text, weight=1):
    return Message(role=role, content=(TextPart(text=text),), weight=weight)


def learned(messages):
    text, spans = labels.answer_spans(messages, render)
    return [text[span.start : span.end] for span in spans]


def test_an_answer_is_learned_up_to_its_end_token_and_not_its_prefix():
    assert learned([turn("user", "digit?"), turn("assistant", "7")]) == [" 7#"]


def test_every_answer_of_a_conversation_is_learned():
    turns = [turn("system", "s"), turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")]
    assert learned(turns) == [" b#", " d#"]


def test_an_answer_of_weight_0_is_context():
    turns = [turn("user", "a"), turn("assistant", "bad", 0), turn("user", "c"), turn("assistant", "good")]
    assert learned(turns) == [" good#"]


def test_a_user_who_writes_like_the_assistant_is_not_learned():
    assert learned([turn("user", "A: 7#\nA: 8"), turn("assistant", "9")]) == [" 9#"]


def test_line_breaks_inside_an_answer_belong_to_it():
    assert learned([turn("user", "a"), turn("assistant", "one\ntwo\n")]) == [" one\ntwo\n#"]


def test_a_template_that_rewrites_earlier_turns_is_refused():
    def forgetful(messages, *, open_answer):
        return render(messages[-1:], open_answer=open_answer)

    with pytest.raises(WorkFailed, match="turn by turn"):
        labels.answer_spans([turn("user", "a"), turn("assistant", "b")], forgetful)


def test_spans_move_by_what_images_before_them_grew():
    images = [Replacement(Span(2, 9), Span(2, 29)), Replacement(Span(20, 27), Span(40, 47))]
    assert labels.shifted([Span(0, 2), Span(10, 15), Span(28, 30)], images) == [
        Span(0, 2),
        Span(30, 35),
        Span(48, 50),
    ]


def test_a_structural_token_inside_an_answer_is_never_learned():
    offsets = [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert labels.mask([5, 6, 7, 8], offsets=offsets, spans=[Span(1, 4)], structural_ids=frozenset({7})) == [
        IGNORED,
        6,
        IGNORED,
        8,
    ]


def test_what_stands_in_place_of_an_image_inside_an_answer_is_never_learned():
    """The line breaks between its rows of tiles are ordinary tokens; only their place tells."""
    offsets = [(0, 1), (1, 2), (2, 3), (3, 4)]
    answer, image = Span(0, 4), Span(1, 3)
    assert labels.mask([5, 6, 7, 8], offsets=offsets, spans=[answer], images=[image], structural_ids=frozenset()) == [
        5,
        IGNORED,
        IGNORED,
        8,
    ]


def test_all_pieces_of_one_character_share_its_label():
    """A byte-level tokenizer writes an emoji as several tokens, each with the offsets of the whole character."""
    offsets = [(0, 1), (1, 2), (1, 2), (1, 2)]
    assert labels.mask([5, 6, 7, 8], offsets=offsets, spans=[Span(1, 2)], structural_ids=frozenset()) == [
        IGNORED,
        6,
        7,
        8,
    ]
