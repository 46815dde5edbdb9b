import pytest
from pydantic import ValidationError

from training.spec import Hyperparameters, Method


def refusal(kind, **asked):
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(asked)
    return refused.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"type": "lora", "quantization": "nf4"}, 'use type "qlora"'),
        ({"type": "qlora", "quantization": "none"}, 'use type "lora"'),
        ({"quantization": "int8", "use_dora": True}, "use_dora does not work over an int8 base; use nf4"),
        ({"init": "pissa"}, 'use type "lora"'),
        ({"quantization": "int8", "init": "pissa"}, 'use type "lora"'),
        ({"quantization": "int8", "double_quantization": True}, "double_quantization is for nf4 and fp4, not for int8"),
        ({"type": "lora", "double_quantization": False}, "double_quantization is for nf4 and fp4, not for none"),
        ({"exclude_modules": ["(a+)+"]}, "match pattern"),
        ({"target_modules": ["lm_head"]}, "'q_proj'"),
    ],
)
def test_a_method_that_cannot_be_done_is_refused_with_the_way_out(asked, said):
    assert said in refusal(Method, **asked)


@pytest.mark.parametrize(
    "asked",
    [
        {"use_dora": True, "use_rslora": True, "quantization": "fp4"},
        {"type": "lora", "init": "pissa", "use_dora": True, "use_rslora": True},
        {"train_connector": True, "train_vision": True, "exclude_modules": ["layers.0"], "init": "gaussian"},
    ],
)
def test_what_can_be_combined_is_taken(asked):
    Method.model_validate(asked)


@pytest.mark.parametrize(
    ("asked", "doubled"),
    [
        ({}, True),
        ({"quantization": "fp4"}, True),
        ({"double_quantization": False}, False),
        ({"quantization": "int8"}, False),
        ({"type": "lora"}, False),
    ],
)
def test_four_bits_are_quantized_twice_unless_told_otherwise(asked, doubled):
    assert Method(**asked).resolved_double_quantization is doubled


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"epochs": 1, "max_steps": 1}, "not both"),
        ({"batch_size": 4, "micro_batch_size": 3}, "multiple of micro_batch_size"),
        ({"activation_offload": True, "gradient_checkpointing": False}, "set that to true"),
        ({"activation_offload": True, "gradient_checkpointing": "selective"}, "set that to true"),
        ({"loraplus_lr_ratio": 0.5}, "greater than or equal to 1"),
        ({"optimizer": "sgd"}, "paged_adamw_8bit"),
    ],
)
def test_hyperparameters_that_cannot_be_done_are_refused_with_the_way_out(asked, said):
    assert said in refusal(Hyperparameters, **asked)
