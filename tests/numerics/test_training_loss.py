"""Our loss is the plain cross entropy over labelled tokens; TRL's fused one and ours agree, gradients included."""

import math
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from trl import SFTTrainer

from tests.engine import alone, collator_of
from tests.passes import within
from training import adapter, loss, settings, trainer
from training.batching import Budget
from training.evaluate import Evaluator
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
        collator=parts.collator, measures=parts.measures, passes=within(settled.budget), check_stop=lambda: None
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


@contextmanager
def head_rows(model):
    """Collect how many tokens each call of the head sees, whatever its callers hand to it."""
    rows = []

    def count(_head, _args, logits):
        rows.append(logits.numel() // logits.shape[-1])

    with model.get_output_embeddings().register_forward_hook(count):  # after the pre-hooks, which may take tokens away
        yield rows


def test_the_head_sees_the_labelled_tokens_and_no_other_in_training(load_tiny, parts_of, tmp_path):
    base = load_tiny()
    model, parts = wrapped(base), parts_of(base)
    loop = built(parts, model, tmp_path / "out", batch_size=4, micro_batch_size=2, max_steps=1)
    with head_rows(model) as rows:
        loop.train()
    assert sum(rows) == sum(measure.labelled_tokens for measure in parts.measures)
    assert [bool(count) for count in rows] == [False, True] * 2, "the model's own call sees none"


def test_the_head_sees_the_labelled_tokens_and_no_other_in_validation(load_tiny, parts_of):
    base = load_tiny()
    model, parts = wrapped(base), parts_of(base)
    lengths = [measure.tokens for measure in parts.measures]
    evaluator = Evaluator(
        collator=parts.collator, lengths=lengths, passes=within(Budget(num_examples=3)), precision="fp32"
    )
    with head_rows(model) as rows:
        evaluation = evaluator.run(model, check_stop=lambda: None)
    assert sum(rows) == evaluation.num_tokens == sum(measure.labelled_tokens for measure in parts.measures)


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_many_labelled_tokens_are_scored_in_parts_as_they_are_at_once(load_tiny, parts_of, monkeypatch, quantization):
    base = load_tiny(quantization)
    model, batch = wrapped(base), batch_of(parts_of(base))
    results = []
    for num_tokens in (1024, 3):
        monkeypatch.setattr(loss, "HEAD_TOKENS", num_tokens)
        model.zero_grad()
        with head_rows(model) as rows:
            scored = score(model, batch)
            before = len(rows)
            scored.loss_sum.backward()
        results.append((scored, gradients(model), max(rows), len(rows) - before))
    (whole, whole_gradients, _, kept), (parts, part_gradients, most, recomputed) = results
    assert (kept, most, recomputed) == (0, 3, math.ceil(whole.num_tokens / 3)), "logits of parts are made again"
    assert (parts.num_correct, parts.num_tokens) == (whole.num_correct, whole.num_tokens)
    assert parts.loss_sum.item() == pytest.approx(whole.loss_sum.item(), rel=1e-6)
    for name, gradient in whole_gradients.items():
        assert gradient.any(), name
        torch.testing.assert_close(part_gradients[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_trls_fused_loss_and_ours_are_equal_and_so_are_their_gradients(load_tiny, parts_of, tmp_path, quantization):
    base = load_tiny(quantization)
    model, parts = wrapped(base), parts_of(base)
    loop = built(parts, model, tmp_path / "out")
    results = []
    for compute_loss in (loop.compute_loss, partial(SFTTrainer.compute_loss, loop)):
        model.zero_grad()
        mean = compute_loss(model, batch_of(parts), num_items_in_batch=torch.tensor(23))
        mean.backward()
        results.append((mean.item(), gradients(model)))
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
