import pytest
import torch

from tests.engine import alone, collator_of, pixel_vision
from training import adapter, loss
from training.spec import Method


@pytest.fixture
def rows(album):
    return [album.question("what?", "red", images=1), album.question("and these two?", "both", images=2)]


@pytest.fixture
def batch_of(encoder_of, rows):
    def batch_of(base):
        return collator_of(base, rows, encoder_of(base)).batch(alone(0, 1))

    return batch_of


def awake(model):
    """Make every update differ from zero, so that gradients reach all of LoRA."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.train()


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_lora_trains_the_text_model_and_nothing_else_in_float32(load, quantization):
    model = adapter.wrap(load(quantization), Method(), name="base")
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 2 * 7  # A and B, two layers, seven projections
    assert all(".text_model." in name and ".lora_" in name for name in trained)
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}


def test_the_configuration_is_a_list_of_targets_with_an_exclusion(load):
    model = adapter.wrap(load(), Method(r=4, target_modules=("q_proj", "v_proj")), name="org/base")
    config = model.peft_config["default"]
    assert sorted(config.target_modules) == ["q_proj", "v_proj"]
    assert "vision_model" in config.exclude_modules
    assert (config.r, config.lora_alpha) == (4, 8)


def test_the_adapter_names_its_base_and_not_a_folder_of_this_machine(load):
    assert adapter.wrap(load(), Method(), name="org/base").peft_config["default"].base_model_name_or_path == "org/base"


def test_the_cast_of_a_quantized_run_to_bfloat16_is_undone(load):
    """TRL 1.16 casts LoRA to bfloat16 whenever the base is quantized (issue 4901)."""
    model = adapter.wrap(load("nf4"), Method(), name="base")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    adapter.keep_float32(model)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_a_half_precision_base_still_trains_lora_in_float32(load):
    model = adapter.wrap(load("none", torch.bfloat16), Method(), name="base")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_checkpointing_keeps_the_frozen_vision_tower_out_of_the_graph(load, rows, encoder_of):
    """transformers 5.23 hooks the patch embedding, too, and the tower is back-propagated through for nothing."""
    base = load()
    model = awake(adapter.wrap(base, Method(), name="base"))
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    encoder = encoder_of(base)
    pixels = collator_of(base, rows, encoder, vision=pixel_vision(base, encoder)).batch(alone(0, 1))["pixel_values"]
    features = base.model.get_image_features(pixels, return_dict=True).pooler_output
    assert not any(feature.requires_grad for feature in features)
    assert base.model.get_input_embeddings()(torch.tensor([[5]])).requires_grad


def test_checkpointing_changes_no_gradient(load, batch_of):
    def gradients(*, checkpointing):
        torch.manual_seed(0)
        base = load()
        model = awake(adapter.wrap(base, Method(), name="base"))
        if checkpointing:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        loss.score(model, batch_of(base)).loss_sum.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    plain, checkpointed = gradients(checkpointing=False), gradients(checkpointing=True)
    assert all(gradient.abs().sum() > 0 for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)
