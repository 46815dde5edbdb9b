"""The adapter as a folder that plain PEFT loads, written, read back and compared with what it must hold."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from core.errors import FailureCode, WorkFailed
from training import adapter, pissa
from training.card import Card
from training.spec import Method
from vlm.family import Family

ADAPTER_FOLDER = "adapter"
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
CARD_FILE = "README.md"
PROVENANCE_FILE = "provenance.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What the written adapter holds.

    Attributes:
        is_noop: Every `lora_B` is zero, so the adapter changes nothing.
    """

    num_tensors: int
    is_noop: bool


def write(
    model: Any,
    folder: Path,
    *,
    weights: dict[str, torch.Tensor],
    processor: Any,
    card: Card,
    provenance: dict[str, Any],
) -> None:
    """Write the PEFT layout, the processor with its image settings, the model card, and the provenance.

    Args:
        model: The wrapped model.
        folder: The folder to make.
        weights: What was trained, by parameter name, whole.
        processor: Of the base, as it cut images for training.
        card: The model card.
        provenance: Where the adapter came from.
    """
    write_adapter(model, folder, weights)
    _sort_config(folder / CONFIG_FILE)
    processor.save_pretrained(str(folder))
    (folder / CARD_FILE).write_text(card.render(), encoding="utf-8")
    (folder / PROVENANCE_FILE).write_text(_json(provenance), encoding="utf-8")


def write_adapter(model: Any, folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write PEFT's two files; an adapter that began by PiSSA as plain LoRA of the untouched base.

    `weights` is what was trained, by parameter name, whole.
    """
    model.save_pretrained(str(folder), state_dict=weights, save_embedding_layers=False)
    config = model.peft_config["default"]
    if config.init_lora_weights == "pissa":
        plain, tensors = pissa.as_plain_lora(
            model, LoraConfig.from_pretrained(folder), load_file(folder / WEIGHTS_FILE)
        )
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        plain.save_pretrained(str(folder))


def verify(folder: Path, model: Any, *, family: Family, method: Method) -> Verified:
    """Read the written adapter back and compare it with what the model and the method imply.

    Raises:
        WorkFailed: `diverged` when a weight is not finite; `internal` when tensors are missing, extra or misshapen.
    """
    tensors = load_file(folder / WEIGHTS_FILE)
    expected = _expected_shapes(model, family, method)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        odd = sorted(found.items() ^ expected.items())
        raise WorkFailed(
            FailureCode.INTERNAL,
            f"The adapter file does not hold what it must; the first difference is {odd[0][0]}.",
            remedy="Report it with the job's id; the versions are in the job's provenance.",
        )
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise WorkFailed(
            FailureCode.DIVERGED,
            f"{len(broken)} of {len(tensors)} tensors of the adapter hold numbers that are not finite.",
            remedy="Lower hyperparameters.learning_rate.",
        )
    return Verified(num_tensors=len(tensors), is_noop=_changes_nothing(tensors, method))


def _changes_nothing(tensors: dict[str, torch.Tensor], method: Method) -> bool:
    """Tell whether no pair was trained; DoRA's magnitudes never move without their pair, whose steps are as large."""
    pairs = [(tensors[name.replace(".lora_B.", ".lora_A.")], b) for name, b in tensors.items() if ".lora_B." in name]
    if method.init == "pissa":
        return all(pissa.changes_nothing(a, b) for a, b in pairs)
    return not any(bool(b.any()) for _, b in pairs)


def _expected_shapes(model: Any, family: Family, method: Method) -> dict[str, tuple[int, ...]]:
    scope = adapter.scope_of(method, family)
    rank = 2 * method.r if method.init == "pissa" else method.r
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLayer) and scope.reaches(name):
            prefix = f"base_model.model.{name}"
            shapes[f"{prefix}.lora_A.weight"] = (rank, module.in_features)
            shapes[f"{prefix}.lora_B.weight"] = (module.out_features, rank)
            if method.use_dora:
                shapes[f"{prefix}.lora_magnitude_vector"] = (module.out_features,)
    return shapes


def _sort_config(path: Path) -> None:
    """PEFT writes the targets as a set, whose order changes from run to run."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(_json(config), encoding="utf-8")


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
