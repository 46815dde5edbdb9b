import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from core.errors import FailureCode, WorkFailed
from vlm import loading


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def _failure(name, models_dir):
    with pytest.raises(WorkFailed) as failed:
        loading.resolve(name, models_dir=models_dir)
    assert failed.value.code is FailureCode.BASE_MODEL
    return failed.value


def test_tiny_resolves_to_a_folder_and_the_digest_of_its_content(models_dir):
    base = loading.resolve("tiny", models_dir=models_dir)
    assert base == loading.resolve("tiny", models_dir=models_dir)
    assert len(base.revision) == 64


def test_a_changed_local_folder_has_another_revision(tiny_folder, tmp_path, models_dir):
    copied = shutil.copytree(tiny_folder, tmp_path / "copy")
    before = loading.resolve(str(copied), models_dir=models_dir).revision
    settings = json.loads((copied / "generation_config.json").read_text())
    (copied / "generation_config.json").write_text(json.dumps(settings | {"max_new_tokens": 3}))
    assert loading.resolve(str(copied), models_dir=models_dir).revision != before


def test_an_unknown_name_fails_and_says_where_to_look(models_dir):
    failure = _failure("smolvlm-9b", models_dir)
    assert not failure.retryable
    assert "/base-models" in failure.remedy


@pytest.mark.usefixtures("offline")
def test_weights_that_cannot_be_had_offline_fail_and_say_what_to_do(models_dir):
    failure = _failure("smolvlm-256m", models_dir)
    assert failure.retryable
    assert "HuggingFaceTB/SmolVLM-256M-Instruct" in failure.detail
    assert "lensmith-demo" in failure.remedy


def test_a_folder_without_a_configuration_is_refused(tmp_path, models_dir):
    base = loading.resolve(str(tmp_path), models_dir=models_dir)
    with pytest.raises(WorkFailed) as failed:
        loading.load(base, quantization="none", dtype=torch.float32)
    assert failed.value.code is FailureCode.BASE_MODEL


def test_a_folder_without_safetensors_is_refused(tiny_folder, tmp_path, models_dir):
    copied = shutil.copytree(tiny_folder, tmp_path / "copy")
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    base = loading.resolve(str(copied), models_dir=models_dir)
    with pytest.raises(WorkFailed) as failed:
        loading.load(base, quantization="none", dtype=torch.float32)
    assert failed.value.code is FailureCode.BASE_MODEL


def _truncate(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def _without_vision(folder):
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "vision_model" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def _another_shape(folder):
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    save_file(tensors | {name: torch.zeros(3, 3)}, folder / "model.safetensors", metadata={"format": "pt"})


def _without_template(folder):
    (folder / "chat_template.jinja").unlink()


@pytest.mark.parametrize("damage", [_truncate, _without_vision, _another_shape, _without_template])
def test_a_base_that_is_not_all_there_is_refused_and_never_filled_with_random_numbers(
    tiny_folder, tmp_path, models_dir, damage
):
    """transformers loads a model without its vision tower, makes one up, and tells it to a log."""
    copied = shutil.copytree(tiny_folder, tmp_path / "copy")
    damage(copied)
    base = loading.resolve(str(copied), models_dir=models_dir)
    with pytest.raises(WorkFailed) as failed:
        loading.load(base, quantization="none", dtype=torch.float32)
    assert failed.value.code is FailureCode.BASE_MODEL
    assert "do not load" in failed.value.detail


def test_a_loaded_base_carries_what_training_needs(models_dir):
    base = loading.resolve("tiny", models_dir=models_dir)
    loaded = loading.load(base, quantization="nf4", dtype=torch.float32)
    assert (loaded.family.name, loaded.revision, loaded.quantization) == ("idefics3", base.revision, "nf4")
    assert not loaded.model.training


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_a_gpu_computes_in_bfloat16_only_where_it_is_not_emulated(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert loading.preferred_dtype() == dtype


@pytest.mark.parametrize(
    ("able", "dtype"),
    [({"avx2": True}, torch.float32), ({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16)],
)
def test_a_cpu_computes_in_bfloat16_only_with_instructions_for_it(monkeypatch, able, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert loading.preferred_dtype() == dtype


def test_a_snapshot_that_a_preview_left_without_weights_is_not_a_base_to_train(monkeypatch, tmp_path, models_dir):
    """Only settings are fetched for a preview; without a network the rest then looked like a broken folder."""
    (tmp_path / "config.json").write_text("{}")
    asked = []
    monkeypatch.setattr(loading, "snapshot_download", lambda _, **wanted: asked.append(wanted) or str(tmp_path))
    assert loading.resolve("smolvlm-256m", models_dir=models_dir, with_weights=False).source == str(tmp_path)
    assert asked[0]["ignore_patterns"] == ["model.safetensors.index.json"], "by it a model looks whole"
    failure = _failure("smolvlm-256m", models_dir)
    assert failure.retryable
    assert "not on this machine" in failure.detail
