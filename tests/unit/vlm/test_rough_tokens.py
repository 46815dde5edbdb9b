"""The rough count of tokens against SmolLM2's own vocabulary."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from vlm.rough_tokens import rough_tokens

TEXTS = {
    "english": "What is the total revenue in the second quarter, and how does it compare with the first one?",
    "numbers": "12,345.67 and 2024-11-29; 98% of 1000000",
    "one digit": "7",
    "an answer": "Yes, there are three red squares.",
    "french": "Quel est le montant total de la facture présentée à l'image, taxes comprises ?",
    "chinese": "图片中有多少只猫?请用一句话回答。",
    "russian": "Сколько людей изображено на этой фотографии?",
    "json": '{"name": "ACME Inc.", "total": 1234.50, "items": [{"sku": "A-1", "qty": 2}]}',
    "a table": "| a | b |\n|---|---|\n| 1.5 | 2.25 |\n" * 5,
}


@pytest.fixture(scope="module")
def tokenizer(demo_folder):
    return Tokenizer.from_file(str(Path(demo_folder) / "tokenizer.json"))


@pytest.mark.parametrize("name", TEXTS)
def test_it_is_within_a_sixth_of_the_true_count(tokenizer, name):
    text = TEXTS[name]
    assert rough_tokens(text) == pytest.approx(len(tokenizer.encode(text).ids), rel=1 / 6, abs=1)


def test_any_text_has_a_count():
    assert rough_tokens("") == 0
    assert rough_tokens("\ud800") >= 1
    assert rough_tokens("x" * 100_000) == pytest.approx(25_000, rel=0.01)
