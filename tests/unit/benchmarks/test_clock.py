"""What the counter of operations sees where torch has no formula: the 4-bit product, and attention on the CPU."""

import bitsandbytes as bnb
import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.arms.clock import counting


def count(work):
    flops = []
    with counting(flops, is_on=True):
        work()
    return flops[0]


def test_a_quantized_layer_counts_like_a_plain_one_forward_and_backward():
    plain = torch.nn.Linear(128, 256, bias=False)
    quantized = bnb.nn.Linear4bit(128, 256, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    quantized.load_state_dict(plain.state_dict())
    quantized.to("cpu")
    plain.requires_grad_(requires_grad=False)
    forward = 2 * 6 * 128 * 256
    for layer in (plain, quantized):
        inputs = torch.randn(2, 3, 128, requires_grad=True)
        assert count(lambda inputs=inputs, layer=layer: layer(inputs).sum().backward()) == 2 * forward


def test_attention_on_the_cpu_is_counted_forward_and_backward():
    query, key, value = (torch.randn(1, 2, 5, 8, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 5 * 5 * 8  # one of 5 x 8 by 8 x 5, in two heads
    counted = count(lambda: scaled_dot_product_attention(query, key, value).sum().backward())
    assert counted == (2 + 5) * product  # the backward pass makes the first product anew


def test_nothing_is_counted_in_a_timed_run():
    flops = []
    with counting(flops, is_on=False):
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert flops == []
