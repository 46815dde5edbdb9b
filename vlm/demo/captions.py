"""Questions and answers about a rendered picture, for the alignment of the connector."""

import random
from dataclasses import dataclass

from vlm.demo.augment import COLOUR_NAMES
from vlm.demo.glyphs import CHARACTERS, SHAPES

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Letters that look like a digit, or like their own capital, are named by what they look like most.
_NAMED_AS = {"O": "zero", "o": "zero", "I": "one", "l": "one"}
_CAPITAL_ALIKE = set("ckpsuvwxz")

_NAME_QUESTIONS = (
    "What character is shown?",
    "Which character is this?",
    "What is written here?",
    "Read the character.",
)
_SHAPE_QUESTIONS = ("What shape is shown?", "Name the shape.")
_DESCRIBE_QUESTIONS = ("Describe the image.", "What is in the picture?", "What do you see?")
_INK_QUESTIONS = ("What colour is it?", "Which colour was it drawn in?")
_PAPER_QUESTIONS = ("What colour is the background?",)
_KIND_QUESTIONS = ("What kind of thing is shown?", "Is this a digit, a letter or a shape?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A question and its answer."""

    question: str
    answer: str


def name_of(symbol: int) -> tuple[str, str]:
    """Return the kind (`digit`, `letter` or `shape`) and the name of a symbol."""
    if symbol >= len(CHARACTERS):
        return "shape", SHAPES[symbol - len(CHARACTERS)]
    character = CHARACTERS[symbol]
    if character in _NAMED_AS:
        return "digit", _NAMED_AS[character]
    if character.isdigit():
        return "digit", DIGIT_WORDS[int(character)]
    return "letter", character.upper() if character in _CAPITAL_ALIKE else character


def ask(symbol: int, ink: int, paper: int, *, rng: random.Random, turns: int = 2) -> list[Turn]:
    """Return `turns` different questions about one picture, with their answers."""
    kind, name = name_of(symbol)
    thing = name if kind == "shape" else f"{kind} {name}"
    colour, background = COLOUR_NAMES[ink], COLOUR_NAMES[paper]
    named = f"A {name}." if kind == "shape" else f"The {kind} {name}."
    described = f"{'An' if colour == 'orange' else 'A'} {colour} {thing} on a {background} background."
    pool = [
        (_SHAPE_QUESTIONS if kind == "shape" else _NAME_QUESTIONS, named, 5),
        (_DESCRIBE_QUESTIONS, described, 3),
        (_INK_QUESTIONS, f"{colour.capitalize()}.", 1),
        (_PAPER_QUESTIONS, f"{background.capitalize()}.", 1),
        (_KIND_QUESTIONS, f"A {kind}.", 1),
    ]
    picked: list[Turn] = []
    while len(picked) < turns:
        questions, answer, _ = rng.choices(pool, weights=[weight for *_, weight in pool])[0]
        if all(turn.answer != answer for turn in picked):
            picked.append(Turn(question=rng.choice(questions), answer=answer))
    return picked
