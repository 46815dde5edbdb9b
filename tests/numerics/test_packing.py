"""Packing without FlashAttention is exact: examples of a row do not see each other, and nothing else changes."""

import pytest
import torch

from tests.engine import alone, collator_of, pixel_vision
from training import adapter
from training.batching import Budget, plan
from training.loss import score
from training.spec import Method
from vlm.image_options import ImageOptions
from vlm.labels import IGNORED


@pytest.fixture
def rows(shelf):
    red, blue = ("red", (40, 30)), ("blue", (64, 32))
    return [
        shelf(("user", 1, red, "Which colour?"), ("assistant", 1, "red")),
        shelf(("user", 1, "Say hello."), ("assistant", 1, "Hello to all of you!")),
        shelf(("user", 1, red, blue, red, "first?"), ("assistant", 1, "red"), ("user", 1, "?"), ("assistant", 1, "b")),
        shelf(("user", 1, blue, "a long question about the colour?"), ("assistant", 1, "b")),
        shelf(("user", 1, "x"), ("assistant", 1, "y")),
    ]


@pytest.fixture
def base(load_tiny):
    base = load_tiny()
    base.family.set_image_options(base.processor, ImageOptions(longest_edge=64, split=True))
    return base


PACKED = ((0, 1), (2,), (4, 3))  # two rows with two examples, one with one: the first and the last are padded


def logits_of(base, batch):
    with torch.no_grad():
        return base.model(**{name: value for name, value in batch.items() if name != "labels"}, use_cache=False).logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("in_graph", [True, False])
def test_the_logits_of_a_packed_example_are_those_that_it_has_alone(base, rows, encoder_of, attention, in_graph):
    base.model.set_attn_implementation(attention)
    encoder = encoder_of(base)
    collator = collator_of(base, rows, encoder, vision=pixel_vision(base, encoder) if in_graph else None)
    packed = logits_of(base, collator.batch(PACKED))
    for row, examples in enumerate(PACKED):
        start = 0
        for example in examples:
            single = logits_of(base, collator.batch(alone(example)))[0]
            found = packed[row, start : start + len(single)]
            assert (found - single).abs().max() < 1e-6
            start += len(single)


def test_without_new_positions_examples_of_a_row_do_see_each_other(base, rows, encoder_of):
    """What the test above would miss if the mask were dropped: laid end to end, the logits differ by a lot."""
    collator = collator_of(base, rows, encoder_of(base))
    batch = collator.batch(((0, 1),))
    single = logits_of(base, collator.batch(alone(1)))[0]
    del batch["position_ids"]
    assert (logits_of(base, batch)[0, -len(single) :] - single).abs().max() > 1e-3


def test_a_packed_step_has_the_gradient_of_its_examples_alone(base, rows, encoder_of):
    torch.manual_seed(0)
    model = adapter.wrap(base, Method(type="lora", r=4), name="base").train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    encoder = encoder_of(base)
    collator = collator_of(base, rows, encoder)
    lengths = [encoder.measure(row).tokens for row in rows]

    def gradients(budget):
        model.zero_grad()
        scores = [score(model, collator.batch(each)) for each in plan(range(5), lengths, budget)]
        torch.stack([each.loss_sum for each in scores]).sum().backward()
        assert sum(each.num_tokens for each in scores) == sum(encoder.measure(row).labelled_tokens for row in rows)
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    one_by_one = gradients(Budget(num_examples=1))
    packed = gradients(Budget(num_examples=5, num_tokens=400, pack_tokens=200))
    for name, gradient in one_by_one.items():
        torch.testing.assert_close(packed[name], gradient, rtol=1e-4, atol=1e-6)


def test_no_label_crosses_from_one_example_to_the_next(base, rows, encoder_of):
    batch = collator_of(base, rows, encoder_of(base)).batch(PACKED)
    starts = batch["position_ids"] == 0
    assert starts.sum() == 7  # five examples, and the padding of two rows
    assert (batch["labels"][starts] == IGNORED).all()
