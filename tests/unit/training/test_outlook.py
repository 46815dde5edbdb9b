"""A plan from a histogram against the plan from every row, and the time of a run against its counted operations."""

import statistics
from types import SimpleNamespace

import pytest

from benchmarks.arms.clock import counting
from ingest.size_tally import SizeTally
from training import cards, duration, pipeline
from training.cards import recognize
from training.duration import workload_of
from training.expected_sizes import expected_sizes
from training.outlook import look_ahead
from training.passes import ImageSize, Size, Sizes
from training.settings import resolve
from training.spec import Hyperparameters, Method
from vlm import blueprint
from vlm.conversation import read_examples
from vlm.image_options import ImageOptions
from vlm.size_histogram import SizeHistogram

MIXED = SizeHistogram.model_validate(
    {
        "examples": [
            {"count": 30, "images_px": [[600, 800]], "text_tokens": 100, "answer_tokens": 20},
            {"count": 1, "images_px": [[2000, 2000], [2000, 2000]], "text_tokens": 900, "answer_tokens": 300},
        ],
        "images": [{"count": 30, "sides_px": [600, 800]}, {"count": 2, "sides_px": [2000, 2000]}],
    }
)


def test_the_largest_example_is_always_there_and_images_are_cut_as_the_base_cuts_them():
    cutting = blueprint.find("smolvlm-256m").cutting_with(ImageOptions(longest_edge=1024))
    found = expected_sizes(MIXED, cutting, {"train": 28, "validation": 3})
    large = Size(tokens=900 + 2 * cutting.num_tokens(2000, 2000), labelled_tokens=300, tiles=10)
    assert large in found.train
    assert large in found.validation
    assert abs(len(found.train) - 28) <= 1
    assert found.all_tiles == 30 * 5 + 2 * 5


def test_of_very_many_examples_some_are_laid_out():
    cutting = blueprint.find("smolvlm-256m").cutting
    counts = {"count": 3_000_000, "images_px": [[600, 800]], "text_tokens": 100, "answer_tokens": 20}
    many = {"examples": [counts], "images": [{"count": 3_000_000, "sides_px": [600, 800]}]}
    found = expected_sizes(SizeHistogram.model_validate(many), cutting, {"train": 2_900_000, "validation": 100_000})
    assert len(found.train) == len(found.validation) == 400
    assert len(found.images) == 2000
    assert found.all_tiles == 3_000_000 * cutting.num_tiles(600, 800)


def test_without_validation_nobody_evaluates():
    found = expected_sizes(MIXED, blueprint.find("tiny").cutting, {"train": 31})
    assert found.validation == []


@pytest.mark.parametrize("method", [{}, {"type": "lora"}])
def test_the_plan_from_the_histogram_is_near_that_of_the_run(album, spec, run, method):
    tally, sides = SizeTally(), []
    album.colours(9, 3)
    for example in read_examples(album.folder):
        turns = [
            SimpleNamespace(text=message.text, answers=message.role == "assistant", weight=1)
            for message in example.messages
        ]
        sides += [(30, 40)] * len(example.images)
        tally.add(SimpleNamespace(turns=turns), [(30, 40)] * len(example.images))
    asked = spec(method=method, hyperparameters={"max_steps": 1, "batch_size": 4, "feature_cache": False})
    child_run = run()
    pipeline.fine_tune(asked, child_run.child)
    (plan,) = [event.plan for event in child_run.events if event.type == "planned"]
    found = look_ahead(
        asked,
        blueprint.find("tiny"),
        tally.histogram(sides),
        {"train": 9, "validation": 3},
        device="cpu",
        precision=torch_precision(plan, child_run),
        budget_gb=None,
    )
    peaks = {phase.phase: phase.total for phase in found.fitted.plan.phases}
    process = found.fitted.plan.process
    for phase in plan["phases"]:
        assert peaks[phase["phase"]] + process == pytest.approx(phase["expected"], rel=0.03)
    assert found.least.plan.most_bytes <= found.fitted.plan.most_bytes
    assert found.work.steps == 1
    assert found.settings()["hyperparameters"]["batch_size"] == 4


def torch_precision(plan, child_run):
    (resolved,) = [event.settings for event in child_run.events if event.type == "resolved"]
    return resolved["hyperparameters"]["precision"]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_are_those_that_torch_counts(album, spec, run, checkpointing):
    album.colours(8, 2)
    hyperparameters = {
        "epochs": 1, "batch_size": 4, "micro_batch_size": 1, "gradient_checkpointing": checkpointing, "precision": "fp32",
    }  # fmt: skip
    child_run, counted = run(), []
    with counting(counted, is_on=True):
        pipeline.fine_tune(spec(method={"type": "lora", "r": 1}, hyperparameters=hyperparameters), child_run.child)
    (resolved,) = [event.settings for event in child_run.events if event.type == "resolved"]
    schedule = resolve(
        Hyperparameters.model_validate(hyperparameters), num_examples=8, precision="fp32", on_gpu=False, can_pack=True
    )
    data = resolved["data"]
    size = Size(tokens=data["tokens"] / 8, labelled_tokens=data["labelled_tokens"] / 8, tiles=1)
    sizes = Sizes(train=[size] * 8, validation=[size] * 2, images=[ImageSize(tiles=1, tokens=7)] * 10)
    work = workload_of(blueprint.find("tiny").geometry, Method(type="lora", r=1), schedule, sizes, num_validation=2)
    assert work.operations == pytest.approx(counted[0], rel=0.2)
    assert (work.steps, work.examples, work.tokens) == (2, 8, data["tokens"])


def test_a_faster_card_takes_less_time_and_ranges_are_in_their_order():
    work = duration.Workload(steps=1, examples=1, tokens=1, operations=1e15)
    t4, h100 = (duration.seconds_on(work, cards.find(name)) for name in ("t4", "h100"))
    for low, expected, high in (
        t4,
        h100,
        duration.seconds_on_cpu(work, "bf16", 8),
        duration.seconds_as_before(work, 2.0),
    ):
        assert 0 < low < expected < high
    assert h100[1] < t4[1]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Tesla T4", "t4"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("NVIDIA GeForce RTX 4060", "rtx-4060"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA L40S", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4060 Ti", None),
        ("NVIDIA H100 PCIe", None),
        ("Matrox", None),
    ],
)
def test_a_card_is_recognized_by_what_its_driver_calls_it(model, name):
    found = recognize(model)
    assert (found and found.name) == name


def test_a_card_has_less_than_its_box_says():
    assert [(card.name, card.memory_gb) for card in cards.CARDS[:3]] == [("t4", 15.2), ("rtx-4060", 8.0), ("l4", 23.6)]
    assert statistics.median(card.memory_gb for card in cards.CARDS) < 30
