"""The equalities that the CPU's tests hold bit for bit or to 1e-6, on a card: its kernels round differently by shape."""

import json
from pathlib import Path

import pytest
import torch

from tests.unit.training.test_golden_losses import RUNS, SAME_NUMBERS, STEPS, write_rows

GOLDEN = json.loads((Path(__file__).parents[1] / "unit" / "training" / "golden_losses.json").read_text())
FP32, BF16 = 2e-3, 3e-2  # ten steps of drift; the losses fall by more than a nat
LORA = {"base_model": "tiny", "method": {"type": "lora"}}


@pytest.mark.parametrize("name", ["tiny, lora", "tiny, nf4"])
def test_ten_steps_lose_what_they_lose_on_a_cpu(album, losses, name):
    write_rows(album)
    assert losses("gpu", **RUNS[name], hyperparameters=STEPS) == pytest.approx(GOLDEN[name], rel=FP32)


@pytest.mark.parametrize("how", SAME_NUMBERS)
def test_the_way_a_step_is_computed_does_not_change_its_loss(album, losses, how):
    write_rows(album)
    found = losses("gpu", **LORA, hyperparameters=STEPS | SAME_NUMBERS[how])
    assert found == pytest.approx(GOLDEN["tiny, lora"], rel=FP32)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_what_float32_learns(album, losses, precision):
    """fp16 goes through the gradient scaler with LoRA in float32 (TRL #4901)."""
    if precision == "bf16" and torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this card only emulates bf16")
    write_rows(album)
    found = losses("half", **LORA, hyperparameters=STEPS | {"precision": precision, "max_grad_norm": 1000})
    assert found[0] == pytest.approx(GOLDEN["tiny, lora"][0], rel=BF16)
    assert found[-1] < found[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kept_features_and_packing_change_nothing(album, losses, precision):
    write_rows(album)
    asked = STEPS | {"precision": precision}
    live = losses("live", **LORA, hyperparameters=asked | {"feature_cache": False, "packing": False})
    kept = losses("kept", **LORA, hyperparameters=asked | {"micro_batch_size": "auto", "packing": True})
    again = losses("again", **LORA, hyperparameters=asked | {"micro_batch_size": "auto", "packing": True})
    assert kept == pytest.approx(live, rel=FP32 if precision == "fp32" else BF16)
    assert again == pytest.approx(kept, rel=1e-6)


@pytest.mark.parametrize(
    "asked",
    [
        {"optimizer": "paged_adamw_8bit"},
        {"optimizer": "paged_adamw"},
        {"optimizer": "adamw_8bit"},
        {"activation_offload": True, "gradient_checkpointing": True},
        {"gradient_checkpointing": "selective"},
    ],
    ids=str,
)
def test_what_needs_a_gpu_works_on_one(album, losses, asked):
    write_rows(album)
    found = losses("options", base_model="tiny", method={"type": "qlora"}, hyperparameters=STEPS | asked)
    assert found[-1] < found[0]
