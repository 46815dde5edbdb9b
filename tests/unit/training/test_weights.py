"""What a plan counts is what real weights, adapters and optimizers take, to the byte."""

import bitsandbytes
import pytest
import torch

from training import adapter
from training.spec import Method
from training.weights import Stored, adapter_shapes, base_bytes, num_trained, optimizer_bytes
from vlm import loading, untrained
from vlm.geometry import find
from vlm.modules import modules_of

GEOMETRY = find("smolvlm-256m")
DEPTH = untrained.Depth(vision=1, text=2)
SHALLOW = untrained.shallow(GEOMETRY, DEPTH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("base")
    untrained.write(made, GEOMETRY, depth=DEPTH)
    return made


def load(folder, method):
    resolved = loading.resolve(str(folder), models_dir=folder.parent)
    return loading.load(
        resolved,
        quantization=method.resolved_quantization,
        double_quantization=method.resolved_double_quantization,
        dtype=torch.float32,
    )


def held(module: torch.nn.Module) -> int:
    """Return the bytes of everything that a module holds itself: weights, biases, scales and their tables."""
    tensors = list(module.parameters(recurse=False))
    weight = getattr(module, "weight", None)
    state = getattr(weight, "quant_state", None)
    if state is not None:
        tensors += [state.absmax, state.code]
        if state.nested:
            tensors += [state.offset, state.state2.absmax, state.state2.code]
    scales = getattr(weight, "SCB", None)
    if scales is not None:
        tensors.append(scales)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize(
    "method",
    [
        Method(type="lora"),
        Method(quantization="int8"),
        Method(quantization="nf4"),
        Method(quantization="nf4", double_quantization=False),
        Method(quantization="fp4"),
    ],
    ids=lambda method: f"{method.resolved_quantization}, double {method.resolved_double_quantization}",
)
def test_the_base_takes_what_is_counted_part_by_part(folder, method):
    model = load(folder, method).model
    stored = Stored(quantization=method.resolved_quantization, double=method.resolved_double_quantization, item_bytes=4)
    modules = list(modules_of(SHALLOW))
    measured: dict[str, int] = {}
    for module in modules:
        measured[module.part] = measured.get(module.part, 0) + held(model.get_submodule(module.name))
    assert base_bytes(modules, stored) == measured


METHODS = {
    "plain": Method(type="lora"),
    "some layers": Method(type="lora", r=3, target_modules=("q_proj", "down_proj"), exclude_modules=("layers.0",)),
    "DoRA": Method(type="lora", use_dora=True),
    "connector and vision": Method(type="lora", train_connector=True, train_vision=True),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_adapter_has_the_shapes_that_are_counted(folder, name):
    method = METHODS[name]
    base = load(folder, method)
    counted = sorted(adapter_shapes(modules_of(SHALLOW), adapter.scope_of(method, base.family), method))
    model = adapter.wrap(base, method, name="x")
    trained = sorted(tuple(parameter.shape) for parameter in model.parameters() if parameter.requires_grad)
    assert counted == trained
    assert num_trained(counted) == sum(map(_product, trained))


def _product(shape):
    return torch.Size(shape).numel()


@pytest.mark.parametrize(
    ("optimizer", "kind"), [("adamw", torch.optim.AdamW), ("adamw_8bit", bitsandbytes.optim.AdamW8bit)]
)
def test_the_optimizer_keeps_what_is_counted(optimizer, kind):
    shapes = [(8, 576), (1536, 8), (8, 500), (7,)]  # large and small ones, and such as end in half a block
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    made = kind(parameters, lr=1e-3)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    made.step()
    kept = [
        value
        for state in made.state.values()
        for name, value in state.items()
        if torch.is_tensor(value) and "qmap" not in name  # one table of each for all tensors
    ]
    assert optimizer_bytes(shapes, optimizer) == sum(value.numel() * value.element_size() for value in kept)
