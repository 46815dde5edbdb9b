import subprocess
import sys

import pytest
from huggingface_hub import file_download

from vlm import catalog


def test_the_catalog_imports_no_torch_in_a_fresh_process():
    heavy = "('torch', 'transformers', 'trl', 'peft', 'accelerate', 'bitsandbytes')"
    code = f"import sys, vlm.catalog; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "[]"


def test_names_are_unique():
    names = [entry.id for entry in catalog.CATALOG]
    assert len(set(names)) == len(names)


def test_a_hub_id_of_the_catalog_finds_its_entry():
    entry = catalog.find("HuggingFaceTB/SmolVLM-256M-Instruct")
    assert entry is not None
    assert entry.id == "smolvlm-256m"


def test_a_name_outside_the_catalog_finds_nothing():
    assert catalog.find("smolvlm-9b") is None


@pytest.mark.parametrize("name", ["tiny", "smolvlm2-2.2b", "HuggingFaceTB/SmolVLM-Instruct", "someone/some-model.v2"])
def test_a_short_name_or_a_hub_id_is_known(name):
    assert catalog.is_known(name)


@pytest.mark.parametrize(
    "name",
    ["", "smolvlm-9b", "a/b/c", "../up", "a/..", "/no/such/folder", "relative/", "a b/c", "/" + "long" * 100, "/a\0b"],
)
def test_what_is_neither_is_not_known(name):
    assert not catalog.is_known(name)


def test_an_existing_absolute_folder_is_known(tmp_path):
    assert catalog.is_known(str(tmp_path))


def test_a_hub_model_without_a_cache_is_not_local(tmp_path):
    entry = catalog.find("smolvlm-256m")
    assert entry is not None
    assert not catalog.is_local(entry, tmp_path)


def test_a_hub_model_whose_files_are_in_the_cache_is_local(tmp_path, monkeypatch):
    entry = catalog.find("smolvlm-256m")
    held = tmp_path / f"models--{entry.hub_id.replace('/', '--')}"
    snapshot = held / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (held / "refs").mkdir()
    (held / "refs" / "main").write_text("c0ffee")
    monkeypatch.setattr(file_download.constants, "HF_HUB_CACHE", str(tmp_path))
    (snapshot / "config.json").write_text("{}")
    assert not catalog.is_local(entry, tmp_path), "the weights are missing"
    (snapshot / "model.safetensors").write_bytes(b"")
    assert catalog.is_local(entry, tmp_path)


def test_a_base_that_we_build_is_local(tmp_path):
    entry = catalog.find("lensmith-demo")
    assert entry is not None
    assert catalog.is_local(entry, tmp_path)
