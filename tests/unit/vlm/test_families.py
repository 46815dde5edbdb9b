import pytest
from transformers import AutoProcessor, LlamaConfig
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMConfig

from core.errors import FailureCode, WorkFailed
from vlm.catalog import CATALOG
from vlm.chat import ADDED_TOKENS
from vlm.families import FAMILIES, family_of
from vlm.idefics3 import IDEFICS3


def test_smolvlm2_is_of_the_smolvlm_family():
    assert family_of(SmolVLMConfig(architectures=["SmolVLMForConditionalGeneration"])).name == "smolvlm"


def test_every_base_of_the_catalog_is_of_a_family_that_there_is():
    assert {entry.family for entry in CATALOG} == {family.name for family in FAMILIES}


def test_a_text_model_is_refused_with_the_architectures_that_work():
    with pytest.raises(WorkFailed) as refused:
        family_of(LlamaConfig(architectures=["LlamaForCausalLM"]))
    assert refused.value.code is FailureCode.BASE_MODEL
    assert "LlamaForCausalLM" in refused.value.detail
    assert "Idefics3ForConditionalGeneration" in refused.value.remedy


def test_every_image_and_structural_token_is_masked_and_the_end_of_a_turn_is_not(tiny_folder):
    tokenizer = AutoProcessor.from_pretrained(tiny_folder).tokenizer
    masked = {tokenizer.convert_ids_to_tokens(index) for index in IDEFICS3.masked_token_ids(tokenizer)}
    assert masked == set(ADDED_TOKENS) - {"<end_of_utterance>"}
    assert len(masked) == 39


def test_generation_stops_at_the_end_of_a_turn(tiny_folder):
    tokenizer = AutoProcessor.from_pretrained(tiny_folder).tokenizer
    assert tokenizer.eos_token_id == IDEFICS3.end_token_id(tokenizer)
    assert tokenizer.decode(tokenizer.eos_token_id) == "<end_of_utterance>"
