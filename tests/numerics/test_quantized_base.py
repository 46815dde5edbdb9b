"""What 4-bit may touch, and that evaluating in the middle of a training changes no gradient."""

import bitsandbytes as bnb
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cosine_similarity
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from training import adapter
from training.spec import LORA_TARGETS, Method
from vlm import loading, tiny

# PEFT 0.21.2 still asks transformers 5.23 by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def resolved(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    tiny.ensure(folder)
    return loading.resolve("tiny", models_dir=folder)


def _quantized(model):
    return {name for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)}


@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_exactly_the_text_models_linear_layers_are_four_bit(resolved, quantization):
    model = loading.load(resolved, quantization=quantization, dtype=torch.float32).model
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert _quantized(model) == {name for name in linear if ".text_model." in name}
    assert {module.weight.quant_type for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)} == {
        quantization
    }


def test_int8_touches_the_text_model_only(resolved):
    model = loading.load(resolved, quantization="int8", dtype=torch.float32).model
    touched = [name for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear8bitLt)]
    assert touched
    assert all(".text_model." in name for name in touched)


def test_the_obvious_skip_list_would_quantize_vision_and_head(resolved):
    """Why `Family.quantization_skip` spells full names: this shorter list skips nothing and loses `lm_head`."""
    naive = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["vision_model"])
    model = AutoModelForImageTextToText.from_pretrained(resolved.source, quantization_config=naive)
    touched = _quantized(model)
    assert "lm_head" in touched
    assert any(".vision_model." in name for name in touched)


def test_lora_reaches_the_text_model_only(resolved):
    base = loading.load(resolved, quantization="nf4", dtype=torch.float32)
    model = adapter.wrap(base, Method(), name="tiny")
    adapted = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(adapted) == 2 * 2 * len(LORA_TARGETS)
    assert all(".text_model." in name for name in adapted)


def test_a_bare_list_of_targets_would_adapt_the_vision_tower(resolved):
    """Why `Family.lora` knows what to exclude."""
    base = loading.load(resolved, quantization="none", dtype=torch.float32)
    model = get_peft_model(base.model, LoraConfig(r=2, target_modules=list(LORA_TARGETS)))
    assert any(".vision_model." in name for name, parameter in model.named_parameters() if parameter.requires_grad)


def test_no_quantized_layer_may_repack_itself_whatever_the_processor_can(resolved, monkeypatch):
    """The test of gradients below can only fail on a CPU with AVX512-BF16; this one fails on every CPU."""
    monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: True)
    base = loading.load(resolved, quantization="nf4", dtype=torch.float32)
    quantized = [module for module in base.model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert quantized
    assert not any(module.support_avx512bf16_for_cpu for module in quantized)


def test_gradients_are_the_same_after_an_evaluation_pass(resolved):
    """bitsandbytes 0.50.2 on AVX512-BF16 CPUs: without the guard of `vlm.loading` the cosine is near 0."""
    torch.manual_seed(0)
    base = loading.load(resolved, quantization="nf4", dtype=torch.float32)
    model = adapter.wrap(base, Method(r=4), name="tiny").train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    ids = torch.randint(3, 250, (2, 24))
    before = _gradients(model, ids)
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    model.train()
    after = _gradients(model, ids)
    for name, gradient in before.items():
        assert cosine_similarity(gradient, after[name], dim=0) > 0.9999, name


def _gradients(model, ids):
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    return {name: p.grad.flatten().clone() for name, p in model.named_parameters() if p.requires_grad}
