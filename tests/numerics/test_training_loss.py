"""Our loss is the plain cross entropy over labelled tokens; TRL's fused one and ours agree, gradients included."""

from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from trl import SFTTrainer

from tests.engine import alone, collator_of
from training import adapter, settings, trainer
from training.loss import score
from training.spec import Hyperparameters, Method
from vlm.labels import IGNORED


class Parts(NamedTuple):
    """A base, its batches, and the size of each row."""

    base: Any
    collator: Any
    measures: list[Any]


@pytest.fixture
def rows(shelf):
    red, blue = ("red", (40, 30)), ("blue", (30, 40))
    return [
        shelf(("user", 1, red, "Which colour?"), ("assistant", 1, "red")),
        shelf(("user", 1, "Say hello."), ("assistant", 1, "Hello to all of you!")),
        shelf(("user", 1, red, blue, "first?"), ("assistant", 1, "red"), ("user", 1, "2nd?"), ("assistant", 1, "blue")),
        shelf(("user", 1, blue, "a long question about the colour?"), ("assistant", 1, "b")),
    ]


@pytest.fixture
def parts_of(rows, encoder_of):
    def parts_of(base):
        encoder = encoder_of(base)
        return Parts(base, collator_of(base, rows, encoder), [encoder.measure(row) for row in rows])

    return parts_of


def wrapped(base):
    """Return the base with LoRA whose updates all differ from zero."""
    torch.manual_seed(0)
    model = adapter.wrap(base, Method(r=4), name="base")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.train()


def batch_of(parts, count=4):
    return parts.collator.batch(alone(*range(count)))


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def schedule(**asked):
    return settings.resolve(Hyperparameters(**asked), num_examples=4, precision="fp32", on_gpu=False, can_pack=True)


def built(parts, model, folder, **asked):
    settled = schedule(**asked)
    steps = trainer.Steps(
        collator=parts.collator, measures=parts.measures, budget=settled.budget, check_stop=lambda: None
    )
    return trainer.build(
        model,
        processor=parts.base.processor,
        steps=steps,
        schedule=settled,
        seed=0,
        callbacks=[],
        output_dir=folder,
    )


def test_the_loss_is_the_cross_entropy_of_the_labelled_tokens(load_tiny, parts_of):
    base = load_tiny()
    model, batch = wrapped(base), batch_of(parts_of(base))
    logits = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
    expected, correct, count = 0.0, 0, 0
    for row, labels in enumerate(batch["labels"].tolist()):
        for position, label in enumerate(labels):
            if label != IGNORED:
                log_probabilities = logits[row, position - 1].double().log_softmax(-1)
                expected -= log_probabilities[label].item()
                correct += int(log_probabilities.argmax()) == label
                count += 1
    scored = score(model, batch)
    assert scored.loss_sum.item() == pytest.approx(expected, rel=1e-5)
    assert (scored.num_correct, scored.num_tokens) == (correct, count)


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_trls_fused_loss_and_ours_are_equal_and_so_are_their_gradients(load_tiny, parts_of, tmp_path, quantization):
    base = load_tiny(quantization)
    model, parts = wrapped(base), parts_of(base)
    loop = built(parts, model, tmp_path / "out")
    results = []
    for compute_loss in (loop.compute_loss, partial(SFTTrainer.compute_loss, loop)):
        model.zero_grad()
        loss = compute_loss(model, batch_of(parts), num_items_in_batch=torch.tensor(23))
        loss.backward()
        results.append((loss.item(), gradients(model)))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert ours == pytest.approx(theirs, rel=1e-6)
    for name, gradient in our_gradients.items():
        torch.testing.assert_close(gradient, their_gradients[name], rtol=1e-4, atol=1e-7)


def test_a_step_in_micro_batches_is_the_step_of_the_whole_batch(load_tiny, parts_of, tmp_path):
    """Rows have unequal numbers of labels; averaging the means of micro-batches would weigh their tokens unequally."""

    def trained(micro_batch_size):
        base = load_tiny()
        model = wrapped(base)
        asked = {"batch_size": 4, "micro_batch_size": micro_batch_size, "max_steps": 1, "learning_rate": 1e-3}
        built(parts_of(base), model, tmp_path / f"by {micro_batch_size}", **asked).train()
        return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    whole, parts = trained(4), trained(1)
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-4, atol=1e-6)


def test_trl_is_told_to_cut_nothing_and_to_leave_lora_in_float32(load_tiny, parts_of, tmp_path):
    base = load_tiny("nf4")
    loop = built(parts_of(base), wrapped(base), tmp_path / "out")
    assert loop.args.max_length is None
    assert loop.args.logging_nan_inf_filter is False
    assert {p.dtype for p in loop.model.parameters() if p.requires_grad} == {torch.float32}
