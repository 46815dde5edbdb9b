from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlm import tiny
from vlm.digest import folder_digest

_CHAT = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which digit is this?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "seven"}]},
]


def test_tiny_has_fewer_than_two_million_parameters(tiny_folder):
    model = AutoModelForImageTextToText.from_pretrained(tiny_folder)
    assert model.num_parameters() < 2_000_000


def test_two_builds_of_tiny_are_the_same_bytes(tiny_folder, tmp_path):
    assert folder_digest(tiny.ensure(tmp_path)) == folder_digest(tiny_folder)


def test_a_conversation_renders_as_smolvlm_renders_it(tiny_folder):
    processor = AutoProcessor.from_pretrained(tiny_folder)
    assert processor.apply_chat_template(_CHAT) == (
        "<|im_start|>User:<image>Which digit is this?<end_of_utterance>\nAssistant: seven<end_of_utterance>\n"
    )


def test_one_image_becomes_four_tokens_between_their_markers(tiny_folder):
    processor = AutoProcessor.from_pretrained(tiny_folder)
    image = Image.new("RGB", (50, 30), "white")
    batch = processor(text=processor.apply_chat_template(_CHAT), images=[image], return_tensors="pt")
    text = processor.tokenizer.decode(batch["input_ids"][0])
    around = "<fake_token_around_image>"
    assert f"User:{around}<global-img><image><image><image><image>{around}Which" in text


def test_any_text_survives_the_tokenizer(tiny_folder):
    tokenizer = AutoProcessor.from_pretrained(tiny_folder).tokenizer
    text = "Größe: 5 µm, 数字 7\n\tend"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_forward_pass_takes_rows_with_no_one_and_three_images(tiny_folder):
    processor = AutoProcessor.from_pretrained(tiny_folder)
    model = AutoModelForImageTextToText.from_pretrained(tiny_folder)
    image = Image.new("RGB", (40, 40), "gray")
    batch = processor(
        text=["User: hi", "User:<image>one", "User:<image><image><image>three"],
        images=[[], [image], [image] * 3],
        padding=True,
        return_tensors="pt",
    )
    assert model(**batch).logits.shape[0] == 3
