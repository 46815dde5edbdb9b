import pytest

from vlm import loading
from vlm.conversation import Message, TextPart
from vlm.ruler import Limits, TokenRuler


class Counting(TokenRuler):
    """Counts how often it renders."""

    num_rendered = 0

    def render(self, messages, *, open_answer=False):
        self.num_rendered += 1
        return super().render(messages, open_answer=open_answer)


@pytest.fixture(scope="module")
def base(models_dir):
    return loading.load_processor(loading.resolve("tiny", models_dir=models_dir))


def talk(num_turns):
    roles = ("user", "assistant")
    return tuple(Message(role=roles[turn % 2], content=(TextPart(text="a"),)) for turn in range(num_turns))


def test_a_conversation_that_does_not_fit_is_not_rendered_turn_by_turn(base):
    """What is learned takes the square of the turns: 4 s for 800 of them, and hours for 50,000."""
    ruler = Counting(base.processor, base.family)
    long = ruler.measure(talk(200), [], enough_tokens=1024)
    assert (ruler.num_rendered, long.labelled_tokens) == (1, 0)
    assert ruler.measure(talk(200), []).tokens == long.tokens > 1024
    assert ruler.num_rendered > 200


def test_all_of_a_conversation_that_just_fits_is_measured(base):
    ruler = TokenRuler(base.processor, base.family)
    whole = ruler.measure(talk(20), [])
    assert whole.labelled_tokens > 0
    assert ruler.measure(talk(20), [], enough_tokens=whole.tokens) == whole


def test_every_special_token_of_the_base_is_reserved(base):
    assert {"<image>", "<end_of_utterance>", "<row_6_col_6>", "<|im_start|>"} <= Limits.of(base).reserved
