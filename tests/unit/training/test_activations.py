"""What a plan says that a pass keeps is what the graph of a real one keeps."""

from contextlib import nullcontext
from itertools import product

import pytest
import torch

from training import adapter
from training.activations import Graph, kept, kept_of_layer, logits_bytes
from training.loss import score
from training.spec import LORA_TARGETS, Method
from vlm import loading, untrained
from vlm.geometry import find

GEOMETRY = find("smolvlm-256m")
DEPTH = untrained.Depth(vision=1, text=3)
TOKENS, LABELLED = 192, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("base")
    untrained.write(made, GEOMETRY, depth=DEPTH)
    return made


def wrapped(folder, method, precision):
    resolved = loading.resolve(str(folder), models_dir=folder.parent)
    base = loading.load(
        resolved,
        quantization=method.resolved_quantization,
        double_quantization=method.resolved_double_quantization,
        dtype=loading.DTYPES[precision],
    )
    model = adapter.wrap(base, method, name="x")
    adapter.keep_float32(model)
    return model.train()


def held_by(model, precision) -> int:
    """Return the bytes that a pass keeps for its gradient, each tensor once, without the parameters."""
    ids = torch.randint(0, 40, (1, TOKENS))
    labels = torch.full_like(ids, -100)
    labels[:, -LABELLED:] = ids[:, -LABELLED:]
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    held: dict[int, torch.UntypedStorage] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            held[storage.data_ptr()] = storage
        return tensor

    casting = nullcontext() if precision == "fp32" else torch.autocast("cpu", dtype=torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), casting:
        loss = score(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}).loss_sum
    total = sum(storage.nbytes() for storage in held.values())
    del loss
    return total


TARGETS = [
    LORA_TARGETS,
    ("q_proj",),
    ("o_proj",),
    ("gate_proj",),
    ("up_proj", "v_proj"),
    ("down_proj",),
    ("q_proj", "k_proj", "v_proj", "o_proj"),
]
CASES = [
    *product(TARGETS, ["fp32"], [0.0, 0.1], ["none"]),
    *product([LORA_TARGETS], ["fp32", "bf16"], [0.0], ["int8", "nf4"]),
    *product(TARGETS, ["bf16"], [0.0, 0.1], ["none"]),
]


@pytest.mark.parametrize(("targets", "precision", "dropout", "quantization"), CASES)
def test_a_pass_keeps_what_is_counted(folder, targets, precision, dropout, quantization):
    method = Method(
        type="lora" if quantization == "none" else "qlora",
        quantization=quantization,
        target_modules=targets,
        dropout=dropout,
        r=4,
    )
    model = wrapped(folder, method, precision)
    shape = untrained.shallow(GEOMETRY, DEPTH).text
    graph = Graph(targets=targets, r=4, has_dropout=dropout > 0, precision=precision)
    counted = kept(shape, graph).bytes(TOKENS) + logits_bytes(shape, LABELLED)
    measured = held_by(model, precision)
    assert 0 <= measured - counted < 1000, "but for the mask and the numbers of the labels"


def test_a_layer_in_the_middle_is_what_one_more_layer_adds():
    graph = Graph(targets=LORA_TARGETS, r=4, has_dropout=False, precision="bf16")
    three, two = (untrained.shallow(GEOMETRY, untrained.Depth(vision=1, text=n)).text for n in (3, 2))
    more = kept(three, graph).bytes(7) - kept(two, graph).bytes(7)
    assert kept_of_layer(three, graph).bytes(7) == more
