import pytest

from training import settings
from training.batching import Budget
from training.spec import Hyperparameters


def resolve(num_examples=1200, *, can_pack=True, no_features=None, **asked):
    return settings.resolve(
        Hyperparameters(**asked),
        num_examples=num_examples,
        precision="fp32",
        on_gpu=False,
        can_pack=can_pack,
        no_features=no_features,
    )


def test_auto_is_the_fields_standard_for_lora():
    schedule = resolve()
    assert (schedule.learning_rate, schedule.batch_size, schedule.epochs) == (2e-4, 16, 3.0)
    assert (schedule.warmup_ratio, schedule.lr_scheduler, schedule.weight_decay) == (0.03, "linear", 0.0)
    assert (schedule.max_grad_norm, schedule.optimizer, schedule.gradient_checkpointing) == (1.0, "adamw", False)


def test_a_gpu_checkpoints_gradients_unless_told_otherwise():
    asked = {"num_examples": 8, "precision": "bf16", "on_gpu": True, "can_pack": True}
    assert settings.resolve(Hyperparameters(), **asked).gradient_checkpointing
    assert not settings.resolve(Hyperparameters(gradient_checkpointing=False), **asked).gradient_checkpointing


def test_passes_are_bounded_in_tokens_and_packed_unless_told_otherwise():
    schedule = resolve()
    assert (schedule.micro_batch_size, schedule.micro_batch_tokens, schedule.packing) == (16, 2048, True)
    assert not resolve(packing=False).packing
    assert not resolve(can_pack=False).packing
    assert resolve(micro_batch_tokens=512).budget == Budget(num_examples=16, num_tokens=512, pack_tokens=1024)


def test_packing_that_the_base_cannot_do_is_told_to_who_asked_for_it():
    assert resolve(can_pack=False).warnings == ()
    (warning,) = resolve(can_pack=False, packing=True).warnings
    assert "one example in a row" in warning


def test_noise_on_the_embeddings_turns_packing_off_unless_it_is_asked_for():
    """NEFTune divides by the length of the row; a packed one would get less of it."""
    assert not resolve(neftune_alpha=5).packing
    assert resolve(neftune_alpha=5, packing=True).packing


def test_no_feature_is_kept_where_none_can_be():
    assert resolve().feature_cache
    assert not resolve(feature_cache=False).feature_cache
    assert not resolve(no_features="it changes").feature_cache
    assert resolve(no_features="it changes").warnings == ()
    (warning,) = resolve(no_features="it changes", feature_cache=True).warnings
    assert warning.endswith("no feature is kept, because it changes.")


def test_a_micro_batch_that_is_asked_for_counts_examples_and_nothing_else():
    schedule = resolve(batch_size=8, micro_batch_size=2)
    assert schedule.budget == Budget(num_examples=2)
    both = resolve(batch_size=8, micro_batch_size=2, micro_batch_tokens=512, packing=True)
    assert both.budget == Budget(num_examples=2, num_tokens=512, pack_tokens=1024)


def test_an_automatic_batch_is_a_multiple_of_the_micro_batch():
    assert resolve(micro_batch_size=5).batch_size == 20


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


def test_noise_and_loraplus_are_off_unless_asked_for():
    schedule = resolve()
    assert (schedule.neftune_alpha, schedule.loraplus_lr_ratio, schedule.activation_offload) == (0.0, 1.0, False)
    assert schedule.warnings == ()


@pytest.mark.parametrize(("asked", "used"), [("paged_adamw", "adamw"), ("paged_adamw_8bit", "adamw_8bit")])
def test_a_paged_optimizer_becomes_its_plain_one_on_a_cpu_and_says_so(asked, used):
    """bitsandbytes does the same, and tells a log that no user sees."""
    schedule = resolve(optimizer=asked)
    assert schedule.optimizer == used
    assert schedule.warnings == (f"hyperparameters.optimizer {asked} needs a GPU; this run uses {used}.",)


def test_activations_stay_where_they_are_on_a_cpu_and_the_user_hears_it():
    schedule = resolve(activation_offload=True, gradient_checkpointing=True)
    assert not schedule.activation_offload
    assert "activation_offload needs a GPU" in schedule.warnings[0]


def test_a_gpu_gets_pages_and_offloading_as_asked():
    asked = Hyperparameters(optimizer="paged_adamw_8bit", activation_offload=True)
    schedule = settings.resolve(asked, num_examples=8, precision="bf16", on_gpu=True, can_pack=True)
    assert (schedule.optimizer, schedule.activation_offload, schedule.warnings) == ("paged_adamw_8bit", True, ())


def test_memory_is_given_back_at_once_on_a_cpu_where_it_is_asked_for():
    assert resolve(compact_memory=True).compact_memory
    assert not resolve().compact_memory
    asked = Hyperparameters(compact_memory=True)
    assert not settings.resolve(asked, num_examples=8, precision="bf16", on_gpu=True, can_pack=True).compact_memory


def test_a_warm_up_that_a_constant_rate_cannot_have_is_said_to_do_nothing():
    schedule = resolve(lr_scheduler="constant", warmup_ratio=0.1)
    assert (schedule.warmup_ratio, schedule.warmup_steps) == (0.0, 0)
    assert "constant_with_warmup" in schedule.warnings[0]
    assert resolve(lr_scheduler="constant").warnings == ()


def test_the_resolved_values_are_the_document_and_the_warnings_are_not():
    document = resolve(optimizer="paged_adamw", loraplus_lr_ratio=16, neftune_alpha=5).document()
    assert (document["optimizer"], document["loraplus_lr_ratio"], document["neftune_alpha"]) == ("adamw", 16, 5)
    assert "warnings" not in document


@pytest.mark.parametrize(("steps", "every"), [(4, 10), (1000, 50), (100_000, 500)])
def test_a_run_is_saved_about_twenty_times_unless_told_otherwise(steps, every):
    assert resolve(max_steps=steps).checkpoint_every == every
    assert resolve(max_steps=steps, checkpoint_every=7).checkpoint_every == 7
