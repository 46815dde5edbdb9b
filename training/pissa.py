"""PiSSA: LoRA that begins as the largest singular values of the weights (Meng et al., arXiv 2404.02948).

PEFT takes those out of the base's weights, so what is trained fits no base but that one. What is published fits the
untouched base: with `W = R + s B0 A0`, the trained `R + s B A` is `W + s (B A - B0 A0)`, plain LoRA of twice the rank.
PEFT's own conversion needs the first adapter in a folder, and drops the magnitudes of DoRA.
"""

import dataclasses
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

_ADAPTER = "default"
_START = "pissa_start"


def remember_start(model: Any) -> None:
    """Keep `A0` and `B0` of every adapted layer beside it, on the host. Call it before anything is trained."""
    for layer in _layers(model):
        start = (layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight)
        setattr(layer, _START, tuple(weight.detach().cpu().clone() for weight in start))


def as_plain_lora(
    model: Any, config: LoraConfig, tensors: dict[str, torch.Tensor]
) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """Return the configuration and the tensors of plain LoRA on the untouched base.

    Args:
        model: The trained model, whose start was remembered.
        config: Its configuration.
        tensors: Its adapter as PEFT would save it, by name; magnitudes of DoRA stay as they are.
    """
    doubled = dict(tensors)
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer):
            first_a, first_b = getattr(layer, _START)
            a, b = (f"base_model.model.{name}.lora_{half}.weight" for half in "AB")
            doubled[a] = torch.cat([tensors[a].cpu(), first_a], dim=0)
            doubled[b] = torch.cat([tensors[b].cpu(), -first_b], dim=1)
    # the scale, alpha / r or alpha / sqrt(r), must stay what it was
    alpha = config.lora_alpha * (2**0.5 if config.use_rslora else 2)
    return dataclasses.replace(config, r=2 * config.r, lora_alpha=alpha, init_lora_weights=True), doubled


def changes_nothing(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether the two halves of a doubled pair cancel out: it was never trained."""
    now_a, first_a = a.chunk(2, dim=0)
    now_b, first_b = b.chunk(2, dim=1)
    return torch.equal(now_a, first_a) and torch.equal(now_b, -first_b)


def _layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]
