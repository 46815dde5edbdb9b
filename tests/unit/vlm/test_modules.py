"""The modules that a plan counts are those of the models themselves."""

import pytest

from vlm import untrained
from vlm.geometry import GEOMETRIES, find
from vlm.modules import modules_of


def counted(geometry):
    return {module.name: module.num_parameters for module in modules_of(geometry)}


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda geometry: geometry.id)
def test_every_module_of_a_published_model_is_counted_with_all_its_parameters(geometry):
    built: dict[str, int] = {}
    for name, parameter in untrained.on_meta(geometry).named_parameters():
        module = name.rpartition(".")[0]
        built[module] = built.get(module, 0) + parameter.numel()
    assert counted(geometry) == built


def test_the_linear_layers_have_the_models_rows_and_columns():
    geometry = find("smolvlm-500m")
    built = {
        name: tuple(parameter.shape)
        for name, parameter in untrained.on_meta(geometry).named_parameters()
        if name.endswith(".weight")
    }
    for module in modules_of(geometry):
        if module.is_linear:
            assert built[f"{module.name}.weight"] == (module.rows, module.columns)
