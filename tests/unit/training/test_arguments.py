import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trl.models import enable_selective_activation_checkpointing

from tests.engine import alone, collator_of
from training import adapter, loss, settings
from training.arguments import arguments
from training.spec import Hyperparameters, Method


def schedule(*, on_gpu=False, **asked):
    return settings.resolve(Hyperparameters(**asked), num_examples=8, precision="fp32", on_gpu=on_gpu, can_pack=True)


@pytest.fixture
def arguments_of(tmp_path):
    return lambda **asked: arguments(schedule(**asked), seed=0, output_dir=tmp_path)


@pytest.fixture
def step(load, album, encoder_of):
    """Run one backward pass with the checkpointing that the arguments ask for; count how often attention ran in it."""

    def step(args):
        base = load()
        torch.manual_seed(2)
        model = adapter.wrap(base, Method(type="lora"), name="base").train()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        enable(model, args)
        rows = [album.question("what?", "red", images=1), album.question("and now?", "blue")]
        loss_sum = loss.score(model, collator_of(base, rows, encoder_of(base)).batch(alone(0, 1))).loss_sum
        with CountAttention() as attention:
            loss_sum.backward()
        return attention.times, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    return step


def enable(model, args):
    """As `transformers.Trainer` does before it trains."""
    if args.activation_checkpointing:
        asked = dict(args.activation_checkpointing_kwargs)
        offload = asked.pop("offload")
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=asked, offload=offload)


class CountAttention(TorchDispatchMode):
    times = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        self.times += "scaled_dot_product" in name and "backward" not in name
        return function(*args, **(kwargs or {}))


LAYERS = 2


@pytest.mark.parametrize(
    ("asked", "again"),
    [
        ({"gradient_checkpointing": False}, 0),
        ({"gradient_checkpointing": True}, LAYERS),
        ({"gradient_checkpointing": "selective"}, 0),
        ({"gradient_checkpointing": True, "activation_offload": True, "on_gpu": True}, LAYERS),
    ],
)
def test_selective_checkpointing_keeps_attention_full_runs_it_again_and_no_gradient_moves(
    arguments_of, step, asked, again
):
    times, gradients = step(arguments_of(**asked))
    _, plain = step(arguments_of(gradient_checkpointing=False))
    assert times == again
    assert all(gradient.abs().sum() > 0 for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(gradients[name], gradient)


def test_full_and_selective_are_told_apart_from_none(arguments_of):
    assert arguments_of(gradient_checkpointing="selective").activation_checkpointing
    assert not arguments_of(gradient_checkpointing=False).activation_checkpointing
    assert "context_fn" not in arguments_of(gradient_checkpointing=True).activation_checkpointing_kwargs


@pytest.mark.parametrize("asked", [True, False])
def test_activations_are_moved_off_a_gpu_when_asked(arguments_of, asked):
    args = arguments_of(activation_offload=asked, gradient_checkpointing=True, on_gpu=True)
    assert args.activation_checkpointing_kwargs["offload"] is asked
    assert args.activation_offloading is False, "TRL's own, which only a step of theirs would use"


def test_trls_own_selective_does_nothing_around_peft_which_is_why_ours_exists(load):
    """TRL 1.16 wraps a method that transformers 5.23 looks for on another object; when this fails, use theirs."""
    model = adapter.wrap(load(), Method(type="lora"), name="base").train()
    enable_selective_activation_checkpointing(model)
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    loss_sum = model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False).logits.sum()
    with CountAttention() as attention:
        loss_sum.backward()
    assert attention.times == LAYERS


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        ("adamw", "adamw_torch"),
        ("adamw_8bit", "adamw_bnb_8bit"),
        ("paged_adamw", "paged_adamw_32bit"),
        ("paged_adamw_8bit", "paged_adamw_8bit"),
    ],
)
def test_every_optimizer_has_its_name_on_a_gpu(arguments_of, optimizer, name):
    assert arguments_of(optimizer=optimizer, on_gpu=True).optim == name


def test_the_schedule_arrives_as_it_was_resolved(arguments_of):
    asked = {"lr_scheduler": "cosine", "warmup_ratio": 0.25, "weight_decay": 0.1, "max_grad_norm": 0.5}
    args = arguments_of(max_steps=8, learning_rate=3e-4, neftune_alpha=5, **asked)
    assert (args.max_steps, args.warmup_steps, args.learning_rate) == (8, 2, 3e-4)
    assert (args.lr_scheduler_type, args.weight_decay, args.max_grad_norm) == ("cosine", 0.1, 0.5)
    assert args.neftune_noise_alpha == 5
    assert arguments_of().neftune_noise_alpha is None


def test_the_arguments_can_be_written_beside_a_checkpoint(arguments_of):
    assert pickle.loads(pickle.dumps(arguments_of(gradient_checkpointing="selective"))).activation_checkpointing
