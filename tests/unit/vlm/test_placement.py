"""The plan of naive model parallelism, on models of the true widths that take no memory."""

import re

import pytest
import torch
from accelerate.utils import check_device_map
from transformers import AutoModelForImageTextToText, Idefics3Config, LlamaConfig

from core.errors import FailureCode, WorkFailed
from vlm import catalog
from vlm.idefics3 import IDEFICS3
from vlm.placement import plan

GB = 10**9


def geometry(*, text, vision, vocab, scale, tied=False):
    hidden, layers, heads, key_heads, inner = text
    decoder = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        tie_word_embeddings=tied,
        pad_token_id=2,
    )
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size", "patch_size")
    tower = dict(zip(names, vision, strict=True))
    return Idefics3Config(text_config=decoder, vision_config=tower, scale_factor=scale, tie_word_embeddings=tied)


SMALL_TOWER = (768, 12, 12, 3072, 512, 16)
GEOMETRIES = {
    "smolvlm-256m": geometry(text=(576, 30, 9, 3, 1536), vision=SMALL_TOWER, vocab=49280, scale=4),
    "smolvlm-500m": geometry(text=(960, 32, 15, 5, 2560), vision=SMALL_TOWER, vocab=49280, scale=4),
    "smolvlm-2.2b": geometry(text=(2048, 24, 32, 32, 8192), vision=(1152, 27, 16, 4304, 384, 14), vocab=49155, scale=3),
}
EVEN = {"smolvlm-256m": (0.26, 0.26), "smolvlm-500m": (0.51, 0.51), "smolvlm-2.2b": (2.28, 2.22)}


def planned(name, budgets, quantization="none"):
    return plan(
        GEOMETRIES[name],
        IDEFICS3,
        quantization=quantization,
        dtype=torch.bfloat16,
        budgets_bytes=[int(b) for b in budgets],
    )


def meta_model(config):
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_two_gpus_get_as_much_as_whole_layers_allow_and_every_weight_has_a_place(name):
    model = meta_model(GEOMETRIES[name])
    num_parameters = sum(weight.numel() for weight in model.parameters())
    assert num_parameters == catalog.find(name).parameters, "the geometry is the catalogue's"
    found = planned(name, [3 * GB, 3 * GB])
    check_device_map(model, found.device_map)  # accelerate raises when a weight has no place
    assert sum(found.bytes_by_gpu) == 2 * num_parameters
    assert [used / GB for used in found.bytes_by_gpu] == pytest.approx(EVEN[name], abs=0.01)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_no_layer_is_split_and_a_batch_meets_the_gpus_in_order(name, quantization):
    budgets = [2 * GB, 1.5 * GB, 2 * GB]
    found = planned(name, budgets, quantization)
    assert list(found.device_map.values()) == sorted(found.device_map.values())
    assert list(found.device_map)[:3] == ["model.vision_model", "model.connector", "model.text_model.embed_tokens"]
    assert list(found.device_map)[-3:] == ["model.text_model.norm", "model.text_model.rotary_emb", "lm_head"]
    num_layers = GEOMETRIES[name].text_config.num_hidden_layers
    layers = [part for part in found.device_map if re.fullmatch(r"model\.text_model\.layers\.\d+", part)]
    assert len(layers) == num_layers == len(found.device_map) - 6, "a layer is one part, and nothing lies inside of it"
    assert all(used <= budget for used, budget in zip(found.bytes_by_gpu, budgets, strict=True))


def test_a_head_that_shares_its_weight_lies_beside_the_embeddings():
    tied = geometry(text=(576, 30, 9, 3, 1536), vision=SMALL_TOWER, vocab=49280, scale=4, tied=True)
    found = plan(tied, IDEFICS3, quantization="none", dtype=torch.bfloat16, budgets_bytes=[GB, GB])
    assert (found.device_map["model.text_model.embed_tokens"], found.device_map["lm_head"]) == (0, 0)
    assert found.device_map["model.text_model.norm"] == 1
    assert sum(found.bytes_by_gpu) == 2 * (catalog.find("smolvlm-256m").parameters - 49280 * 576), "it counts once"


def test_four_bits_of_the_text_model_take_what_bitsandbytes_takes(models_dir, tiny_folder):
    """The plan's bytes against a model that is really loaded: weights, their scales, and the scales of these."""
    from vlm import loading

    resolved = loading.resolve("tiny", models_dir=models_dir)
    base = loading.load(resolved, quantization="nf4", dtype=torch.float32)
    real = 0
    for weight in base.model.parameters():
        real += weight.numel() * weight.element_size()
        if (state := getattr(weight, "quant_state", None)) is not None:
            real += state.absmax.nbytes + state.state2.absmax.nbytes
    found = plan(base.model.config, base.family, quantization="nf4", dtype=torch.float32, budgets_bytes=[GB])
    assert found.bytes_by_gpu[0] == pytest.approx(real, rel=1e-3)
    assert set(found.device_map.values()) == {0}


@pytest.mark.parametrize(("budgets", "missing"), [([0.5 * GB, 0.5 * GB], "0.01 GB"), ([0.4 * GB, 0.4 * GB], "0.11 GB")])
def test_what_does_not_fit_says_by_how_much(budgets, missing):
    with pytest.raises(WorkFailed, match=missing) as failed:
        planned("smolvlm-500m", budgets)
    assert failed.value.code is FailureCode.OUT_OF_MEMORY
    assert "resources.gpus" in failed.value.remedy
    planned("smolvlm-500m", budgets, "nf4")  # and the remedy is true
