import pytest
import torch

from tests.engine import collator_of
from tests.passes import within
from training import adapter, settings, trainer
from training.spec import Hyperparameters, Method


@pytest.fixture
def built(load, album, encoder_of, tmp_path):
    def built(method=None, **asked):
        base = load()
        torch.manual_seed(0)
        model = adapter.wrap(base, Method(**{"type": "lora", "r": 4} | (method or {})), name="base")
        rows = [album.question("what?", "red", images=1), album.question("and now?", "blue")]
        encoder = encoder_of(base)
        schedule = settings.resolve(
            Hyperparameters(batch_size=2, lr_scheduler="constant", **asked),
            num_examples=2,
            precision="fp32",
            on_gpu=False,
            can_pack=True,
        )
        steps = trainer.Steps(
            collator=collator_of(base, rows, encoder),
            measures=[encoder.measure(row) for row in rows],
            passes=within(schedule.budget),
            check_stop=lambda: None,
        )
        return trainer.build(
            model,
            processor=base.processor,
            steps=steps,
            schedule=schedule,
            seed=0,
            callbacks=[],
            output_dir=tmp_path,
        )

    return built


def rates(loop):
    """Return the learning rate and the weight decay of every trained parameter by its name."""
    names = {id(p): name for name, p in loop.model.named_parameters()}
    groups = loop.create_optimizer().param_groups
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_loraplus_lets_b_learn_faster_than_a(built, optimizer):
    asked = {"learning_rate": 1e-3, "loraplus_lr_ratio": 16, "weight_decay": 0.1}
    found = rates(built({"r": 64}, optimizer=optimizer, **asked))
    assert len(found) == 28
    for name, (rate, decay) in found.items():
        assert rate == pytest.approx(16e-3 if "lora_B" in name else 1e-3)
        assert decay == 0.1


@pytest.mark.parametrize("lr_ratio", [1, 16])
def test_an_8_bit_optimizer_keeps_its_state_in_8_bits(built, lr_ratio):
    """Where a tensor has 4,096 numbers or more; bitsandbytes keeps the rest in 32 bits, which is all of `tiny` at r 8."""
    loop = built({"r": 64}, learning_rate=1e-3, max_steps=1, optimizer="adamw_8bit", loraplus_lr_ratio=lr_ratio)
    loop.train()
    kinds = {
        (parameter.numel() >= 4096, moments[name].dtype)
        for parameter, moments in loop.optimizer.optimizer.state.items()
        for name in ("state1", "state2")
    }
    assert kinds == {(True, torch.uint8), (False, torch.float32)}


def test_magnitudes_of_dora_learn_as_b_does(built):
    found = rates(built({"use_dora": True}, learning_rate=1e-3, loraplus_lr_ratio=4))
    magnitudes = [rate for name, (rate, _) in found.items() if "magnitude" in name]
    assert magnitudes == [pytest.approx(4e-3)] * 14


def test_without_loraplus_all_learn_alike(built):
    assert {rate for rate, _ in rates(built(learning_rate=1e-3)).values()} == {1e-3}


def test_a_step_of_loraplus_moves_b_by_the_ratio(built):
    """Adam's first step is the learning rate in size, whatever the gradient."""
    loop = built(learning_rate=1e-3, loraplus_lr_ratio=16, max_steps=1)
    loop.train()
    for name, parameter in loop.model.named_parameters():
        if "lora_B" in name:
            assert parameter.abs().max().item() == pytest.approx(16e-3, rel=0.01), name
