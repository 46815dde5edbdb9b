"""What a plan says that a step needs is what the tensors of a real step take at their peak."""

from dataclasses import replace

import pytest
import torch

from tests.live import Live
from training import adapter
from training.calibration import calibration
from training.held import Held
from training.loss import score
from training.moments import Moments
from training.passes import ImageSize, Pass
from training.planned_run import PlannedRun
from training.precision import autocast
from training.settings import resolve
from training.spec import Hyperparameters, Method
from vlm import loading, untrained
from vlm.geometry import find
from vlm.lora_scope import asked_scope
from vlm.modules import LORA_NAMES

DEPTH = untrained.Depth(vision=1, text=4)
GEOMETRY = untrained.shallow(find("smolvlm-256m"), DEPTH)
COMES_AND_GOES = {"activations", "logits", "workspace"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("base")
    untrained.write(made, GEOMETRY, depth=DEPTH)
    return made


def planned(method, one, *, precision, checkpointing, device="cpu", images=(), cache=True):
    schedule = resolve(
        Hyperparameters(gradient_checkpointing=checkpointing, compact_memory=True, feature_cache=cache),
        num_examples=8,
        precision=precision,
        on_gpu=device == "cuda",
        can_pack=True,
    )
    return PlannedRun(
        geometry=GEOMETRY,
        method=method,
        scope=asked_scope(LORA_NAMES, method.target_modules, connector=False, vision=False, left_out=()),
        schedule=schedule,
        device=device,
        passes=[one],
        validation=[one],
        num_shapes=1,
        images=images,
        num_tiles=sum(image.tiles for image in images),
    )


def moments_of(run):
    return Moments(run, Held(run, calibration()), calibration())


def largest(moments):
    most = max(moments, key=lambda parts: sum(parts.values()))
    return sum(size for part, size in most.items() if part in COMES_AND_GOES)


def lived(folder, method, one, *, precision, checkpointing):
    """Return the peak of the tensors of one step, without the weights and their gradients."""
    resolved = loading.resolve(str(folder), models_dir=folder.parent)
    base = loading.load(resolved, quantization=method.resolved_quantization, dtype=loading.DTYPES[precision])
    model = adapter.wrap(base, method, name="x")
    adapter.keep_float32(model)
    model.train()
    if checkpointing:
        model.enable_input_require_grads()
        model.activation_checkpointing_enable({"use_reentrant": False})
    ids = torch.randint(5, 60, (one.rows, one.row_tokens))
    labels = torch.full_like(ids, -100)
    labels[0, -one.labelled_tokens :] = ids[0, -one.labelled_tokens :]
    mask = torch.ones_like(ids)
    if one.is_masked:
        mask[-1, -20:] = 0
    for _ in range(2):  # the first step makes what the others find
        model.zero_grad()
        with Live([*model.parameters(), *model.buffers()]) as live:
            with autocast(torch.device("cpu"), precision):
                loss = score(model, {"input_ids": ids, "attention_mask": mask, "labels": labels}).loss_sum
            loss.backward()
    return live.peak


def one_pass(rows=1, row_tokens=600, labelled_tokens=8, *, is_masked=False):
    return Pass(rows=rows, row_tokens=row_tokens, is_masked=is_masked, labelled_tokens=labelled_tokens, tiles=0)


CASES = {
    "plain": ({}, one_pass(), "bf16", False),
    "checkpointing": ({}, one_pass(), "bf16", True),
    "fp32": ({}, one_pass(), "fp32", False),
    "fp32, checkpointing": ({}, one_pass(), "fp32", True),
    "many labels": ({}, one_pass(labelled_tokens=400), "bf16", False),
    "more labels than go through the head at once": (
        {},
        one_pass(row_tokens=1600, labelled_tokens=1500),
        "bf16",
        False,
    ),
    "padded rows": ({}, one_pass(rows=4, row_tokens=400, is_masked=True), "bf16", False),
    "nf4": ({"type": "qlora"}, one_pass(), "bf16", False),
    "two targets": ({"target_modules": ("q_proj", "v_proj")}, one_pass(), "bf16", False),
    "dropout": ({"dropout": 0.1}, one_pass(), "bf16", False),
    "dora": ({"use_dora": True}, one_pass(), "bf16", False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_takes_what_is_counted(folder, name):
    asked, one, precision, checkpointing = CASES[name]
    method = Method.model_validate({"type": "lora"} | asked)
    run = planned(method, one, precision=precision, checkpointing=checkpointing)
    counted = largest(moments_of(run).training())
    assert counted == pytest.approx(
        lived(folder, method, one, precision=precision, checkpointing=checkpointing), rel=0.12
    )


@pytest.mark.parametrize("tiles", [3, 8, 10])
def test_a_pass_through_the_tower_takes_what_is_counted(folder, tiles):
    base = loading.load(
        loading.resolve(str(folder), models_dir=folder.parent), quantization="none", dtype=torch.bfloat16
    )
    side = GEOMETRY.vision.side_px
    images = [
        {
            "pixel_values": torch.rand(1, 3, side, side),
            "pixel_attention_mask": torch.ones(1, side, side, dtype=torch.int64),
        }
        for _ in range(tiles)
    ]
    with torch.no_grad(), Live([*base.model.parameters(), *base.model.buffers()]) as live:
        base.family.encode_images(base.model, images)
    cut = sum(tensor.nbytes for image in images for tensor in image.values())
    sizes = [ImageSize(tiles=1, tokens=67)] * tiles
    run = planned(Method(type="lora"), one_pass(), precision="bf16", checkpointing=False, images=sizes)
    most = max(moments_of(run).preparing(), key=lambda parts: sum(parts.values()))
    assert most["pixels"] + most["vision"] == pytest.approx(live.peak + cut, rel=0.08)


def test_on_a_gpu_the_tower_is_gone_during_training_and_on_a_cpu_its_pages_stay():
    sizes = [ImageSize(tiles=5, tokens=345)] * 4
    method = Method(type="qlora")
    held = {}
    for device in ("cpu", "cuda"):
        run = planned(method, one_pass(), precision="bf16", checkpointing=False, device=device, images=sizes)
        held[device] = next(moments_of(run).training())
    assert held["cuda"]["base.vision"] == held["cuda"]["base.connector"] == 0
    assert held["cpu"]["base.vision"] > 10**7
    assert held["cpu"]["base.text, as published"] > held["cpu"]["base.text"] == held["cuda"]["base.text"]
    assert "libraries" not in held["cuda"]


def test_without_the_cache_every_pass_looks_at_its_images():
    one = Pass(rows=1, row_tokens=400, is_masked=False, labelled_tokens=8, tiles=5)
    sizes = [ImageSize(tiles=5, tokens=345)]
    run = planned(Method(), one, precision="bf16", checkpointing=False, images=sizes, cache=False)
    moments = moments_of(run)
    assert any("pixels" in parts for parts in moments.training())
    assert not any("pixels" in parts for parts in moments.preparing())


def test_the_allocator_keeps_a_share_unless_memory_is_given_back_at_once():
    run = planned(Method(), one_pass(), precision="bf16", checkpointing=False)
    assert not any("allocator" in parts for parts in moments_of(run).training())
    kept = replace(run, schedule=replace(run.schedule, compact_memory=False))
    assert all(parts["allocator"] > calibration().kept_always for parts in moments_of(kept).training())
