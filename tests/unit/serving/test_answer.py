import pytest

from serving.answer import Answer
from serving.wire import FinishReason, Sampling

END = 0


def decode(tokens):
    """Decode as a byte-level tokenizer does: half a character becomes a replacement mark; the end has no text."""
    return bytes(token for token in tokens if token != END).decode(errors="replace")


def grown(text, *, end=True, **sampling):
    """Push a text byte by byte and return the answer with the pieces that were streamed."""
    pieces: list[str] = []
    answer = Answer(sampling=Sampling(**sampling), end_ids={END}, decode=decode, emit=pieces.append)
    for token in [*text.encode(), *([END] if end else [])]:
        if answer.push(token):
            break
    assert "".join(pieces) == answer.text
    return answer, pieces


def test_the_end_token_ends_an_answer_and_is_no_text():
    answer, _ = grown("seven")
    assert answer.text == "seven"
    assert answer.finish_reason is FinishReason.STOP
    assert len(answer.tokens) == 6


def test_the_limit_ends_an_answer():
    answer, _ = grown("seven", max_tokens=3)
    assert answer.text == "sev"
    assert answer.finish_reason is FinishReason.LENGTH


def test_the_end_token_at_the_limit_is_a_stop():
    assert grown("seven", max_tokens=6)[0].finish_reason is FinishReason.STOP


def test_leading_blanks_are_no_part_of_the_text():
    assert grown(" \n seven ")[0].text == "seven "


def test_tokens_after_the_end_change_nothing():
    answer, _ = grown("a")
    assert answer.push(ord("b"))
    assert answer.text == "a"


def test_the_earliest_stop_string_cuts_the_text():
    answer, _ = grown("one, two; three", stop=("; ", ", "))
    assert answer.text == "one"
    assert answer.finish_reason is FinishReason.STOP


def test_a_stop_string_that_only_began_is_held_back_and_then_shown():
    answer, pieces = grown("abXabXY", stop=("XYZ",))
    assert answer.text == "abXabXY"
    assert "X" not in pieces


def test_no_part_of_a_stop_string_is_ever_streamed():
    answer, pieces = grown("abXYZcd", stop=("XYZ",))
    assert answer.text == "ab"
    assert pieces == ["a", "b"]


def test_a_begun_stop_string_inside_of_another_is_found():
    """Cutting a begun stop from the end can uncover an older one: `a` of `ab`, then `xxa` of `xxab`... must both hold."""
    answer, pieces = grown("..ab", stop=(".ab.", "b!"))
    assert answer.text == "..ab"
    assert pieces[0] == "."


def test_half_a_character_is_never_streamed():
    _, pieces = grown("a€ü")
    assert pieces == ["a", "€", "ü"]


@pytest.mark.parametrize("text", ["€", "a€"])
def test_an_answer_cut_inside_of_a_character_ends_with_a_mark(text):
    answer, _ = grown(text, end=False, max_tokens=len(text.encode()) - 1)
    assert answer.text.endswith("\ufffd")
