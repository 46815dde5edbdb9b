import itertools
import math

import bitsandbytes as bnb
import pytest
import torch

from core.errors import FailureCode, WorkFailed
from tests.engine import alone, collator_of, pixel_vision, tower_of
from training import adapter, loss
from training.spec import Method
from training.vision import FrozenVision


@pytest.fixture
def rows(album):
    return [album.question("what?", "red", images=1), album.question("and these two?", "both", images=2)]


@pytest.fixture
def batch_of(encoder_of, rows):
    def batch_of(base, *, connector=False, pixels=False):
        encoder = encoder_of(base)
        frozen = FrozenVision(tower_of(base, encoder, trains_connector=connector))
        vision = pixel_vision(base, encoder) if pixels else frozen
        return collator_of(base, rows, encoder, vision=vision).batch(alone(0, 1))

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", [{}, {"use_dora": True}, {"train_vision": True, "train_connector": True}])
def test_the_cast_of_a_quantized_run_to_bfloat16_is_undone(load, method, dtype):
    """TRL 1.16 casts LoRA to bfloat16 whenever the base is quantized; in fp16 its gradient scaler then dies (4901)."""
    model = adapter.wrap(load("nf4", dtype), Method(**method), name="base")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    adapter.keep_float32(model)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", [{}, {"use_dora": True}, {"init": "pissa", "r": 4}])
def test_a_half_precision_base_still_trains_lora_in_float32(load, method, dtype):
    model = adapter.wrap(load("none", dtype), Method(type="lora", **method), name="base")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_wrapping_casts_nothing_of_the_base_to_float32(load, quantization):
    """PEFT's `prepare_model_for_kbit_training` would: embeddings, head, norms, vision tower, all at twice the size."""
    base = load(quantization, torch.bfloat16)
    before = {id(p): p.dtype for p in base.model.parameters()}
    model = adapter.wrap(base, Method(type="lora" if quantization == "none" else "qlora"), name="base")
    adapter.keep_float32(model)
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert len(frozen) == len(before)
    assert all(p.dtype == before[id(p)] != torch.float32 for p in frozen)


@pytest.mark.parametrize(("use_rslora", "scale"), [(False, 16 / 4), (True, 16 / math.sqrt(4))])
def test_rank_scale_and_dropout_are_what_was_asked_for(load, use_rslora, scale):
    method = Method(r=4, alpha=16, dropout=0.25, use_rslora=use_rslora)
    layer = adapter.wrap(load(), method, name="base").get_base_model().model.text_model.layers[0].self_attn.q_proj
    assert layer.lora_A["default"].weight.shape == (4, 64)
    assert layer.scaling["default"] == scale
    assert layer.lora_dropout["default"].p == 0.25


def adapted(model):
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name.removeprefix("base_model.model.model.").split(".lora_")[0] for name in names}


@pytest.mark.parametrize(("connector", "vision"), list(itertools.product((False, True), repeat=2)))
def test_connector_and_vision_tower_are_trained_when_asked_and_never_otherwise(load, connector, vision):
    model = adapter.wrap(load("nf4"), Method(train_connector=connector, train_vision=vision), name="base")
    names = adapted(model)
    assert sum("text_model" in name for name in names) == 2 * 7
    assert sum("connector" in name for name in names) == connector
    assert sum("vision_model" in name for name in names) == vision * 2 * 6


def test_modules_that_are_excluded_stay_as_they_are(load):
    method = Method(exclude_modules=("layers.0.mlp", "layers.1.self_attn.q_proj"))
    names = adapted(adapter.wrap(load(), method, name="base"))
    everything = adapted(adapter.wrap(load(), Method(), name="base"))
    assert everything - names == {
        *(f"text_model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")),
        "text_model.layers.1.self_attn.q_proj",
    }


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"exclude_modules": ("layers.7",)}, "method.exclude_modules names 'layers.7'"),
        ({"exclude_modules": ("vision_model",)}, "method.exclude_modules names 'vision_model'"),
        ({"target_modules": ("q_proj",), "exclude_modules": ("q_proj",)}, "reaches no q_proj"),
        ({"train_connector": True, "exclude_modules": ("connector",)}, "reaches no proj"),
        ({"init": "pissa", "r": 33}, "method.r 33 is more than"),
    ],
)
def test_what_this_base_does_not_have_is_refused_by_its_name(load, asked, said):
    """PEFT ignores an exclusion of nothing, and ends on PiSSA's shapes in the middle of a layer."""
    with pytest.raises(WorkFailed, match=said) as failure:
        adapter.wrap(load(), Method(type="lora", **asked), name="base")
    assert failure.value.code is FailureCode.BASE_MODEL
    assert "method." in failure.value.remedy or "Leave it out" in failure.value.remedy


def test_dora_over_int8_breaks_at_its_second_pass_which_is_why_it_is_refused(load):
    """bitsandbytes 0.50.2 moves an int8 weight's scales away in the first pass; when this fails, allow the two."""
    method = Method.model_construct(**Method(type="qlora").model_dump() | {"quantization": "int8", "use_dora": True})
    model = adapter.wrap(load("int8"), method, name="base")
    ids = torch.tensor([[5, 6, 7]])
    model(input_ids=ids)
    with pytest.raises(AttributeError, match="NoneType"):
        model(input_ids=ids)


def test_gaussian_and_pissa_begin_as_the_field_defines_them(load):
    torch.manual_seed(0)
    plain, gaussian, pissa = (
        adapter.wrap(load(), Method(type="lora", r=4, alpha=4, init=init), name="base")
        .get_base_model()
        .model.text_model.layers[0]
        .mlp.down_proj
        for init in ("default", "gaussian", "pissa")
    )
    assert gaussian.lora_A["default"].weight.std().item() == pytest.approx(1 / 4, rel=0.1)
    assert plain.lora_A["default"].weight.abs().max() <= 1 / math.sqrt(128)
    assert not gaussian.lora_B["default"].weight.any()
    taken = pissa.lora_B["default"].weight @ pissa.lora_A["default"].weight
    torch.testing.assert_close(pissa.base_layer.weight + taken, plain.base_layer.weight)
    largest = torch.linalg.svdvals(plain.base_layer.weight)[:4]
    torch.testing.assert_close(torch.linalg.svdvals(taken)[:4], largest)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_the_scales_of_four_bits_are_quantized_when_asked(load, quantization, double):
    base = load(quantization, double_quantization=double)
    quantized = [module for module in base.model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert quantized
    assert {module.weight.quant_state.nested for module in quantized} == {double}


# Pixels are needed where vision trains; without that, the guard alone must keep the tower out of the graph.
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("connector", "vision", "pixels"),
    [case for case in itertools.product((False, True), repeat=3) if case[2] or not case[1]],
)
def test_only_what_is_trained_is_in_the_graph(load, batch_of, connector, vision, pixels, checkpointing):
    """transformers 5.23 hooks the patch embedding, too, and the tower is back-propagated through for nothing."""
    base = load()
    method = Method(type="lora", train_connector=connector, train_vision=vision)
    model = awake(adapter.wrap(base, method, name="base"))
    if checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    inner, in_graph = base.model.model, set()
    for name, module in (("vision", inner.vision_model), ("connector", inner.connector), ("text", inner.text_model)):
        module.register_forward_hook(lambda _, __, out, name=name: in_graph.update({name} if is_in_graph(out) else ()))
    loss.score(model, batch_of(base, connector=connector, pixels=pixels)).loss_sum.backward()
    assert ("vision" in in_graph, "connector" in in_graph, "text" in in_graph) == (vision, connector or vision, True)
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def is_in_graph(output):
    return (output if isinstance(output, torch.Tensor) else output.last_hidden_state).grad_fn is not None


@pytest.mark.parametrize("asked", [{}, {"use_dora": True}, {"train_connector": True, "train_vision": True}])
def test_checkpointing_changes_no_gradient(load, batch_of, asked):
    def gradients(*, checkpointing):
        torch.manual_seed(0)
        base = load()
        model = awake(adapter.wrap(base, Method(type="lora", **asked), name="base"))
        if checkpointing:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        loss.score(model, batch_of(base, pixels=True)).loss_sum.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    plain, checkpointed = gradients(checkpointing=False), gradients(checkpointing=True)
    assert all(gradient.abs().sum() > 0 for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_the_settled_method_is_told_with_all_its_options(load):
    method = Method(
        type="lora", init="pissa", r=4, use_rslora=True, train_vision=True, exclude_modules=("layers.1.mlp",)
    )
    told = adapter.document(method, adapter.wrap(load(), method, name="base"))
    assert told["trainable_parameters"] > 0
    assert {name: told[name] for name in method.model_fields_set} == {
        "type": "lora",
        "init": "pissa",
        "r": 4,
        "use_rslora": True,
        "train_vision": True,
        "exclude_modules": ["layers.1.mlp"],
    }
    assert set(told) - {"trainable_parameters"} == set(Method.model_fields), "an option that nobody is told of"


def test_a_part_that_is_to_be_trained_and_has_no_layer_of_the_kinds_is_refused(load):
    """A SigLIP has no gate_proj: the tower's features were not kept because it is trained, and nothing of it was."""
    with pytest.raises(WorkFailed, match="train_vision reaches no layer"):
        adapter.wrap(load(), Method(type="lora", target_modules=("gate_proj",), train_vision=True), name="base")
