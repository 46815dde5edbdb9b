import pytest
import torch

from training import device


@pytest.fixture
def gpu(monkeypatch):
    """Pretend to have a GPU of this compute capability, or none."""

    def gpu(capability):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)

    return gpu


def test_fp16_without_a_gpu_becomes_fp32_with_a_warning(gpu, run):
    gpu(None)
    child_run = run()
    assert device.choose_precision("fp16", child_run.child.events) == "fp32"
    (warning,) = child_run.events
    assert (warning.level, "computes in fp32" in warning.message) == ("warning", True)


def test_a_t4_which_only_emulates_bf16_computes_in_fp16(gpu, run):
    gpu((7, 5))
    assert device.choose_precision("auto", run().child.events) == "fp16"


def test_a_card_with_bf16_uses_it(gpu, run):
    gpu((8, 9))
    assert device.choose_precision("auto", run().child.events) == "bf16"


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_a_precision_that_was_asked_for_is_taken(gpu, run, asked):
    gpu(None)
    child_run = run()
    assert device.choose_precision(asked, child_run.child.events) == asked
    assert child_run.events == []
