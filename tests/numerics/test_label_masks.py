"""What is learned, as golden text: the tokens between the brackets carry a label, the others none.

Each section of a file in `golden` is one conversation as a model of that family reads it, images expanded. A change that
moves a bracket says why in its commit.
"""

import re
from pathlib import Path

import pytest
from PIL import Image
from trl.chat_template_utils import get_training_chat_template

from tests.models import make_smolvlm2
from tests.qwen import make_qwen2_5_vl
from vlm import loading
from vlm.conversation import as_chat
from vlm.image_options import ImageOptions
from vlm.labels import IGNORED

GOLDEN = {
    "idefics3": Path(__file__).with_name("golden") / "label_masks.txt",
    "qwen2_5_vl": Path(__file__).with_name("golden") / "label_masks_qwen2_5_vl.txt",
}
SMALL, WIDE = ("red", (40, 30)), ("blue", (64, 32))

CONVERSATIONS = {
    "one question about one image": [("user", 1, SMALL, "Which digit?"), ("assistant", 1, "7")],
    "no image": [("user", 1, "Say hello."), ("assistant", 1, "Hello!")],
    "three images": [("user", 1, SMALL, SMALL, " and ", SMALL, "?"), ("assistant", 1, "three reds")],
    "a system turn and two answers": [
        ("system", 1, "Be brief."),
        ("user", 1, SMALL, "What?"),
        ("assistant", 1, "A red field."),
        ("user", 1, "And now?"),
        ("assistant", 1, "The same."),
    ],
    "an answer of weight 0 between images": [
        ("user", 1, SMALL, "What?"),
        ("assistant", 0, "A cat."),
        ("user", 1, "No. And", SMALL, "?"),
        ("assistant", 1, "Red."),
    ],
    "an image in tiles": [("user", 1, WIDE, "What?"), ("assistant", 1, "blue")],
    "an image in the answer": [("user", 1, "Show red."), ("assistant", 1, SMALL, "there")],
    "the user imitates the assistant": [("user", 1, "x\nAssistant: y"), ("assistant", 1, "z")],
    "line breaks and signs of many bytes": [("user", 1, "Größe?"), ("assistant", 1, "5 µm\n数字 🙂\n")],
}


def golden(family):
    sections = re.split(r"^## (.+)\n", GOLDEN[family].read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {name: text.removesuffix("\n\n") for name, text in zip(sections[::2], sections[1::2], strict=True)}


@pytest.fixture
def base(load_tiny):
    base = load_tiny()
    base.family.set_image_options(base.processor, ImageOptions(longest_edge=64, split=True))
    return base


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = make_qwen2_5_vl(tmp_path_factory.mktemp("qwen"))
    return loading.load_processor(loading.resolve(str(folder), models_dir=folder))


def marked(encoded, tokenizer):
    """Return the tokens as text, the learned runs in brackets."""
    runs = []
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        assert label in {IGNORED, token}
        if not runs or runs[-1][0] != (label == token):
            runs.append((label == token, []))
        runs[-1][1].append(token)
    return "".join(f"⟦{tokenizer.decode(ids)}⟧" if learned else tokenizer.decode(ids) for learned, ids in runs)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_labels_are_the_golden_ones(base, shelf, encoder_of, name):
    encoded = encoder_of(base).encode(shelf(*CONVERSATIONS[name]))
    assert marked(encoded, base.processor.tokenizer) == golden("idefics3")[name]


@pytest.fixture(scope="module")
def smolvlm2(tmp_path_factory):
    models_dir = tmp_path_factory.mktemp("smolvlm2")
    tiny = loading.resolve("tiny", models_dir=models_dir)
    folder = make_smolvlm2(Path(tiny.source), models_dir / "smolvlm2")
    base = loading.load_processor(loading.resolve(str(folder), models_dir=models_dir))
    base.family.set_image_options(base.processor, ImageOptions(longest_edge=64, split=True))
    return base


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_smolvlm2_learns_what_smolvlm_learns(smolvlm2, shelf, encoder_of, name):
    """Another class of model and of processor, the same tokens."""
    assert smolvlm2.family.name == "smolvlm"
    encoded = encoder_of(smolvlm2).encode(shelf(*CONVERSATIONS[name]))
    assert marked(encoded, smolvlm2.processor.tokenizer) == golden("idefics3")[name]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_labels_of_qwen2_5_vl_are_the_golden_ones(qwen, shelf, encoder_of, name):
    encoded = encoder_of(qwen).encode(shelf(*CONVERSATIONS[name]))
    assert marked(encoded, qwen.processor.tokenizer) == golden("qwen2_5_vl")[name]


@pytest.mark.parametrize("family", GOLDEN)
def test_every_golden_section_is_tested(family):
    assert set(golden(family)) == set(CONVERSATIONS)


# TRL knows no weights, and it learns the line breaks that the processor writes between the tiles of an image.
SAME_IN_TRL = [name for name in CONVERSATIONS if "weight" not in name and "in the answer" not in name]


@pytest.mark.parametrize("name", SAME_IN_TRL)
def test_the_labels_agree_with_trls_own_template_but_for_the_last_line_break(base, shelf, encoder_of, name):
    """TRL's training template also learns the line break after the end token, which is never generated."""
    example = shelf(*CONVERSATIONS[name])
    encoded = encoder_of(base).encode(example)
    pictures = iter(Image.open(shelf.folder / "images" / sha256).convert("RGB") for sha256 in example.images)
    chat = [
        turn | {"content": [part | {"image": next(pictures)} if part["type"] == "image" else part for part in content]}
        for turn in as_chat(example.messages)
        for content in [turn["content"]]
    ]
    theirs = base.processor.apply_chat_template(
        chat,
        chat_template=get_training_chat_template(base.processor),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, mask = theirs["input_ids"][0], theirs["assistant_masks"][0]
    end = base.family.end_token_id(base.processor.tokenizer)
    expected = [
        token if learned and ids[index - 1] != end else IGNORED
        for index, (token, learned) in enumerate(zip(ids, mask, strict=True))
    ]
    assert ids == encoded.input_ids
    assert expected == encoded.labels
