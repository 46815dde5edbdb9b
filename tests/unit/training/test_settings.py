import pytest

from training import settings
from training.spec import Hyperparameters


def resolve(num_examples=1200, longest_tokens=30, **asked):
    return settings.resolve(
        Hyperparameters(**asked),
        num_examples=num_examples,
        longest_tokens=longest_tokens,
        precision="fp32",
        on_gpu=False,
    )


def test_auto_is_the_fields_standard_for_lora():
    schedule = resolve()
    assert (schedule.learning_rate, schedule.batch_size, schedule.epochs) == (2e-4, 16, 3.0)
    assert (schedule.warmup_ratio, schedule.lr_scheduler, schedule.weight_decay) == (0.03, "linear", 0.0)
    assert (schedule.max_grad_norm, schedule.optimizer, schedule.gradient_checkpointing) == (1.0, "adamw", False)


def test_a_gpu_checkpoints_gradients_unless_told_otherwise():
    asked = {"num_examples": 8, "longest_tokens": 30, "precision": "bf16", "on_gpu": True}
    assert settings.resolve(Hyperparameters(), **asked).gradient_checkpointing
    assert not settings.resolve(Hyperparameters(gradient_checkpointing=False), **asked).gradient_checkpointing


@pytest.mark.parametrize(
    ("longest_tokens", "micro_batch_size"),
    [(30, 16), (256, 16), (257, 8), (1100, 2), (4097, 1)],
)
def test_an_automatic_micro_batch_is_smaller_for_longer_rows(longest_tokens, micro_batch_size):
    schedule = resolve(longest_tokens=longest_tokens)
    assert schedule.micro_batch_size == micro_batch_size
    assert schedule.micro_batch_size * schedule.accumulation_steps == 16


def test_an_automatic_micro_batch_divides_an_odd_batch():
    assert resolve(batch_size=34).micro_batch_size == 2
    assert resolve(batch_size=21).micro_batch_size == 7


def test_an_automatic_batch_is_a_multiple_of_the_micro_batch():
    schedule = resolve(micro_batch_size=5)
    assert (schedule.batch_size, schedule.accumulation_steps) == (20, 4)


def test_the_last_step_of_an_epoch_may_be_smaller():
    schedule = resolve(num_examples=21, epochs=2, batch_size=16)
    assert (schedule.steps_per_epoch, schedule.total_steps) == (2, 4)
    assert [schedule.num_trained(step) for step in range(5)] == [0, 16, 21, 37, 42]


def test_part_of_an_epoch_is_rounded_up_to_a_step():
    assert resolve(num_examples=160, epochs=0.25).total_steps == 3


def test_a_number_of_steps_overrides_epochs_and_says_how_many_they_are():
    schedule = resolve(num_examples=160, max_steps=25)
    assert (schedule.total_steps, schedule.epochs) == (25, 2.5)


def test_a_run_of_one_step_has_no_warm_up_that_would_make_it_do_nothing():
    assert resolve(max_steps=1).warmup_steps == 0
