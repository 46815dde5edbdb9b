import dataclasses
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from core.errors import Conflict, Invalid, NotFound
from serving.adapters import AdapterStore
from serving.lora_files import Target, check_lora
from serving.wire import AdapterRef
from vlm.idefics3 import IDEFICS3

EXCLUDE = r".*(vision_model|connector).*"
TEXT = "model.text_model.layers.0"
TARGET = Target(
    base="smolvlm-256m",
    linears={
        f"{TEXT}.self_attn.q_proj": (6, 6),
        f"{TEXT}.mlp.down_proj": (12, 6),
        "model.vision_model.encoder.layers.0.self_attn.q_proj": (8, 8),
        "lm_head": (6, 40),
    },
    names=IDEFICS3.lora,
    quantization="none",
)
CONFIG = {
    "peft_type": "LORA",
    "base_model_name_or_path": "HuggingFaceTB/SmolVLM-256M-Instruct",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj", "down_proj"],
    "exclude_modules": EXCLUDE,
}
DTYPES = {"float32": "F32", "float16": "F16", "uint16": "BF16"}


def tensors(**changes):
    """Return the tensors that `CONFIG` implies on `TARGET`."""
    prefix = f"base_model.model.{TEXT}"
    return {
        f"{prefix}.self_attn.q_proj.lora_A.weight": np.ones((2, 6), np.float32),
        f"{prefix}.self_attn.q_proj.lora_B.weight": np.ones((6, 2), np.float32),
        f"{prefix}.mlp.down_proj.lora_A.weight": np.ones((2, 12), np.float32),
        f"{prefix}.mlp.down_proj.lora_B.weight": np.ones((6, 2), np.float32),
    } | changes


def write_tensors(path: Path, arrays: dict[str, np.ndarray]) -> None:
    header, data = {}, b""
    for name, array in arrays.items():
        end = len(data) + array.nbytes
        header[name] = {"dtype": DTYPES[array.dtype.name], "shape": array.shape, "data_offsets": [len(data), end]}
        data += array.tobytes()
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def first_key() -> str:
    return next(iter(tensors()))


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter_config.json").write_text(json.dumps(CONFIG))
    write_tensors(made / "adapter_model.safetensors", tensors())
    return made


def refusal(folder: Path) -> str:
    with pytest.raises(Invalid) as caught:
        check_lora(folder, TARGET)
    assert str(folder) not in caught.value.detail
    return caught.value.detail


def test_a_plain_adapter_is_taken(folder):
    assert check_lora(folder, TARGET).r == 2


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint16"])
def test_each_float_type_is_taken(folder, dtype):
    write_tensors(
        folder / "adapter_model.safetensors",
        {name: (np.zeros_like(array, dtype=dtype)) for name, array in tensors().items()},
    )
    check_lora(folder, TARGET)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_modules": "(a+)+$"}, "target_modules"),
        ({"target_modules": "all-linear"}, "target_modules"),
        ({"target_modules": ["(a+)+$"]}, "target_modules"),
        ({"target_modules": []}, "target_modules"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head, which is outside"),
        ({"target_modules": ["q_proj", "z_proj"]}, "z_proj"),
        ({"target_modules": ["q_proj"]}, "does not imply"),
        ({"exclude_modules": ".*"}, "exclude_modules"),
        ({"exclude_modules": EXCLUDE + "|(a+)+$"}, "exclude_modules"),
        ({"exclude_modules": EXCLUDE + r"|.*\.(a|(a+)+)(\..*)?"}, "exclude_modules"),
        ({"exclude_modules": EXCLUDE + r"|.*\.(mlp.*)(\..*)?"}, "exclude_modules"),
        ({"exclude_modules": None}, "lacks"),
        ({"exclude_modules": ".*(connector).*"}, "lacks"),
        ({"exclude_modules": "(a+)+$"}, "exclude_modules"),
        ({"r": 50_000_000}, "r:"),
        ({"r": 513}, "r:"),
        ({"r": 0}, "r:"),
        ({"r": "2"}, "r:"),
        ({"r": 4}, "shape"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": float("inf")}, "lora_alpha"),
        ({"lora_alpha": -1}, "lora_alpha"),
        ({"base_model_name_or_path": "HuggingFaceTB/SmolVLM-500M-Instruct"}, "was trained on"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"use_dora": True}, "lora_magnitude_vector"),
        ({"use_dora": "yes"}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 999_999}}, "rank_pattern"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"auto_map": {"AutoModel": "evil.py"}}, "auto_map"),
    ],
)
def test_a_hostile_or_foreign_configuration_is_refused(folder, changes, said):
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
    assert said in refusal(folder)


VISION = "model.vision_model.encoder.layers.0.self_attn.q_proj"
CONNECTOR = "model.connector.modality_projection.proj"
WIDE = dataclasses.replace(TARGET, linears={**TARGET.linears, CONNECTOR: (16, 6)})


def pair(module: str, num_in: int, num_out: int, r: int = 2) -> dict[str, np.ndarray]:
    prefix = f"base_model.model.{module}"
    return {
        f"{prefix}.lora_A.weight": np.ones((r, num_in), np.float32),
        f"{prefix}.lora_B.weight": np.ones((num_out, r), np.float32),
    }


def magnitudes(*modules: str) -> dict[str, np.ndarray]:
    return {f"base_model.model.{module}.lora_magnitude_vector": np.ones(6, np.float32) for module in modules}


def rewrite(folder: Path, arrays: dict[str, np.ndarray], **changes: object) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
    write_tensors(folder / "adapter_model.safetensors", arrays)


def refusal_of(folder: Path, target: Target) -> str:
    with pytest.raises(Invalid) as caught:
        check_lora(folder, target)
    return caught.value.detail


BOTH = magnitudes(f"{TEXT}.self_attn.q_proj", f"{TEXT}.mlp.down_proj")


def test_a_dora_adapter_with_a_magnitude_for_each_pair_is_taken(folder):
    rewrite(folder, tensors(**BOTH), use_dora=True)
    assert check_lora(folder, TARGET).use_dora


def test_magnitudes_that_are_missing_or_that_nobody_asked_for_are_refused(folder):
    rewrite(folder, tensors(**magnitudes(f"{TEXT}.self_attn.q_proj")), use_dora=True)
    assert f"lacks base_model.model.{TEXT}.mlp.down_proj.lora_magnitude_vector" in refusal(folder)
    rewrite(folder, tensors(**BOTH))
    assert "does not imply" in refusal(folder)


def test_a_dora_adapter_is_refused_on_a_base_in_int8(folder):
    """bitsandbytes drops an int8 weight's scales after its first pass; the second answer would be a crash."""
    rewrite(folder, tensors(**BOTH), use_dora=True)
    assert "held in int8" in refusal_of(folder, dataclasses.replace(TARGET, quantization="int8"))


def test_the_rank_that_pissa_doubles_to_is_taken(folder):
    rewrite(folder, pair(f"{TEXT}.self_attn.q_proj", 6, 6, r=512), target_modules=["q_proj"], r=512)
    assert check_lora(folder, TARGET).r == 512


@pytest.mark.parametrize(
    ("exclude", "targets", "more", "said"),
    [
        (".*(vision_model).*", ["proj"], pair(CONNECTOR, 16, 6), "no module named proj"),
        (".*(connector).*", [], pair(VISION, 8, 8), "does not imply"),
        (None, ["proj"], pair(CONNECTOR, 16, 6) | pair(VISION, 8, 8), "no module named proj"),
    ],
)
def test_an_adapter_of_connector_or_vision_tower_holds_exactly_their_pairs_too(folder, exclude, targets, more, said):
    targets = CONFIG["target_modules"] + targets
    rewrite(folder, tensors() | more, exclude_modules=exclude, target_modules=targets)
    check_lora(folder, WIDE)
    rewrite(folder, tensors() | more, target_modules=targets)
    assert said in refusal_of(folder, WIDE), "the same tensors under a configuration of the text model only"
    rewrite(folder, tensors(), exclude_modules=exclude, target_modules=targets)
    assert "lacks" in refusal_of(folder, WIDE), "the same configuration without their tensors"


def test_modules_that_were_left_out_have_no_tensors(folder):
    exclude = EXCLUDE + r"|.*\.(layers\.0\.mlp)(\..*)?"
    rewrite(folder, pair(f"{TEXT}.self_attn.q_proj", 6, 6), exclude_modules=exclude, target_modules=["q_proj"])
    check_lora(folder, TARGET)
    rewrite(folder, tensors(), exclude_modules=exclude)
    assert "no module named down_proj" in refusal(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"peft_type": "LORA"}', "[" * 100_000])
def test_a_configuration_that_is_none_is_refused(folder, text):
    (folder / "adapter_config.json").write_text(text)
    assert "adapter_config.json" in refusal(folder)


def test_a_missing_half_of_a_pair_is_refused(folder):
    arrays = tensors()
    arrays.pop(first_key())
    write_tensors(folder / "adapter_model.safetensors", arrays)
    assert f"lacks {first_key()}" in refusal(folder)


def test_a_tensor_too_many_is_refused(folder):
    write_tensors(folder / "adapter_model.safetensors", tensors(extra=np.ones((2, 2), np.float32)))
    assert "holds extra" in refusal(folder)


@pytest.mark.parametrize(
    "value", [np.float32("nan"), np.float32("-inf"), np.float16("inf"), np.uint16(0x7F80), np.uint16(0xFFC0)]
)
def test_a_number_that_is_not_finite_is_refused(folder, value):
    poisoned = np.zeros((2, 6), value.dtype)
    poisoned[1, 3] = value
    write_tensors(folder / "adapter_model.safetensors", tensors(**{first_key(): poisoned}))
    assert "not finite" in refusal(folder)


@pytest.mark.parametrize("kept", [0, 7, 8, 40, -1])
def test_a_cut_off_file_is_refused(folder, kept):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert "adapter_model.safetensors" in refusal(folder)


def test_bytes_after_the_last_tensor_are_refused(folder):
    with (folder / "adapter_model.safetensors").open("ab") as out:
        out.write(b"more")
    assert "holds more" in refusal(folder)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2, 6], "data_offsets": [0, 10**12]},
        {"dtype": "F32", "shape": [2, 6], "data_offsets": [4, 52]},
        {"dtype": "F32", "shape": [-2, -6], "data_offsets": [0, 48]},
        {"dtype": "F32", "shape": [2.0, 6], "data_offsets": [0, 48]},
        {"dtype": "U8", "shape": [2, 6], "data_offsets": [0, 48]},
        {"dtype": "F32", "shape": "26", "data_offsets": [0, 48]},
        {"dtype": "F32"},
        7,
    ],
)
def test_a_forged_header_is_refused(folder, entry):
    path = folder / "adapter_model.safetensors"
    data = path.read_bytes()
    num_bytes = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + num_bytes]) | {first_key(): entry}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + num_bytes :])
    refusal(folder)


def test_a_header_of_gigabytes_is_not_read(folder):
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")
    assert "no usable header" in refusal(folder)


@pytest.fixture
def store(fresh_world) -> AdapterStore:
    return AdapterStore(fresh_world.storage, fresh_world.settings.layout.adapters)


def publish(world, folder: Path) -> AdapterRef:
    return AdapterRef.model_validate(world.publish(folder))


def test_an_adapter_is_fetched_once_and_found_again(fresh_world, store, folder):
    ref = publish(fresh_world, folder)
    local = store.local_folder(ref)
    assert (local / "adapter_config.json").read_bytes() == (folder / "adapter_config.json").read_bytes()
    shutil.rmtree(fresh_world.settings.layout.storage / ref.key)
    assert store.local_folder(ref) == local


def test_a_flipped_byte_in_storage_is_a_conflict_and_leaves_nothing_behind(fresh_world, store, folder):
    ref = publish(fresh_world, folder)
    stored = fresh_world.stored(ref.model_dump(), "adapter_model.safetensors")
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    stored.write_bytes(data)
    with pytest.raises(Conflict, match="damaged") as caught:
        store.local_folder(ref)
    assert caught.value.extra == {"code": "adapter_damaged"}
    assert list(fresh_world.settings.layout.adapters.iterdir()) == []


def test_a_local_copy_that_went_bad_is_fetched_again(fresh_world, store, folder):
    ref = publish(fresh_world, folder)
    weights = store.local_folder(ref) / "adapter_model.safetensors"
    weights.unlink()
    weights.write_bytes(b"bad")
    assert (store.local_folder(ref) / "adapter_model.safetensors").read_bytes() != b"bad"


def test_a_file_that_storage_lost_is_a_conflict(fresh_world, store, folder):
    ref = publish(fresh_world, folder)
    fresh_world.stored(ref.model_dump(), "adapter_config.json").unlink()
    with pytest.raises(Conflict, match=r"adapter_config\.json is missing"):
        store.local_folder(ref)


def test_a_reference_with_another_digest_is_a_conflict(fresh_world, store, folder):
    ref = publish(fresh_world, folder)
    with pytest.raises(Conflict, match="digest"):
        store.local_folder(AdapterRef(key=ref.key, sha256="0" * 64))


def test_an_adapter_that_was_never_published_is_not_found(store):
    with pytest.raises(NotFound):
        store.local_folder(AdapterRef(key="default/adapters/none", sha256="0" * 64))


@pytest.mark.parametrize("name", ["adapter_model.bin", "weights.pt", "modeling_evil.py", "more.safetensors"])
def test_a_kind_of_file_that_no_adapter_holds_is_refused_before_it_is_fetched(fresh_world, store, folder, name):
    (folder / name).write_bytes(b"pickle")
    ref = publish(fresh_world, folder)
    with pytest.raises(Conflict, match="no adapter may hold"):
        store.local_folder(ref)


def test_an_adapter_without_weights_is_refused(fresh_world, store, folder):
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(Conflict, match=r"adapter_model\.safetensors is missing"):
        store.local_folder(publish(fresh_world, folder))


def test_a_link_in_the_local_copy_is_not_followed(fresh_world, store, folder, tmp_path):
    ref = publish(fresh_world, folder)
    local = store.local_folder(ref)
    elsewhere = tmp_path / "elsewhere"
    shutil.copy(local / "adapter_config.json", elsewhere)
    (local / "adapter_config.json").unlink()
    (local / "adapter_config.json").symlink_to(elsewhere)
    assert not (store.local_folder(ref) / "adapter_config.json").is_symlink()


def test_a_link_in_storage_gives_a_plain_copy_of_the_very_bytes(fresh_world, store, folder, tmp_path):
    stored, ref = linked_config(fresh_world, folder, tmp_path / "elsewhere")
    assert stored.is_symlink()
    copy = store.local_folder(ref) / "adapter_config.json"
    assert not copy.is_symlink()
    assert copy.read_bytes() == (folder / "adapter_config.json").read_bytes()


def test_a_link_in_storage_to_other_bytes_is_a_conflict(fresh_world, store, folder, tmp_path):
    _, ref = linked_config(fresh_world, folder, tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes(b"a file of this machine")
    with pytest.raises(Conflict, match="damaged"):
        store.local_folder(ref)
    assert list(fresh_world.settings.layout.adapters.iterdir()) == []


def linked_config(world, folder: Path, elsewhere: Path) -> tuple[Path, AdapterRef]:
    """Publish an adapter, then put a link where its configuration lay in storage."""
    ref = publish(world, folder)
    stored = world.stored(ref.model_dump(), "adapter_config.json")
    stored.rename(elsewhere)
    stored.symlink_to(elsewhere)
    return stored, ref
