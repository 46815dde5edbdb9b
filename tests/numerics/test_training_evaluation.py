"""Validation is exact, whatever the batch, and a training that is interrupted by one goes on as if it were not."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from tests.engine import alone, collator_of
from tests.passes import within
from training import adapter
from training.batching import Budget
from training.evaluate import Evaluator
from training.loss import score
from training.spec import Method
from vlm.labels import IGNORED


@pytest.fixture
def rows(shelf):
    red, blue = ("red", (40, 30)), ("blue", (30, 40))
    return [
        shelf(("user", 1, red, "Which colour?"), ("assistant", 1, "red")),
        shelf(("user", 1, "Say hello."), ("assistant", 1, "Hello to all of you!")),
        shelf(("user", 1, red, blue, red, "which?"), ("assistant", 1, "the last")),
    ]


@pytest.fixture
def ready(load_tiny, rows, encoder_of):
    """Return a model whose updates differ from zero, and its collator."""

    def ready(quantization="none"):
        torch.manual_seed(0)
        base = load_tiny(quantization)
        model = adapter.wrap(base, Method(r=4, dropout=0.3), name="base")
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        return model.train(), collator_of(base, rows, encoder_of(base))

    return ready


def evaluate(model, collator, batch_size=2):
    evaluator = Evaluator(
        collator=collator, lengths=[20, 30, 40], passes=within(Budget(num_examples=batch_size)), precision="fp32"
    )
    return evaluator.run(model, check_stop=lambda: None)


def test_loss_and_accuracy_are_those_of_a_hand_computed_reference(ready):
    model, collator = ready()
    model.eval()
    loss, correct, count = 0.0, 0, 0
    for row in range(3):
        batch = collator.batch(alone(row))
        labels = batch.pop("labels")[0].tolist()
        with torch.no_grad():
            logits = model(**batch).logits[0].double()
        for position, label in enumerate(labels):
            if label != IGNORED:
                loss -= logits[position - 1].log_softmax(-1)[label].item()
                correct += int(logits[position - 1].argmax()) == label
                count += 1
    found = evaluate(model, collator)
    assert found.num_tokens == count
    assert found.loss == pytest.approx(loss / count, rel=1e-5)
    assert found.token_accuracy == correct / count


def test_every_token_weighs_the_same_in_any_batch(ready):
    model, collator = ready()
    one, all_at_once = evaluate(model, collator, 1), evaluate(model, collator, 3)
    assert one.loss == pytest.approx(all_at_once.loss, rel=1e-5)
    assert one.token_accuracy == all_at_once.token_accuracy


def test_it_leaves_the_mode_and_the_random_numbers_as_they_were(ready):
    model, collator = ready()
    before = torch.get_rng_state()
    evaluate(model, collator)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8", "none"])
def test_a_validation_between_two_steps_changes_no_gradient(ready, quantization):
    """bitsandbytes 0.50.2 on CPUs with AVX512-BF16 loses the gradient of every 4-bit layer's input after one."""
    model, collator = ready(quantization)
    batch = collator.batch(alone(0, 1, 2))

    def gradients():
        torch.manual_seed(7)  # dropout
        model.zero_grad()
        score(model, batch).loss_sum.backward()
        return {name: p.grad.flatten().clone() for name, p in model.named_parameters() if p.requires_grad}

    before = gradients()
    evaluate(model, collator)
    for name, gradient in gradients().items():
        assert cosine_similarity(gradient, before[name], dim=0) > 0.9999, name
