"""Features that are kept, features that are made anew, and pixels in the graph: the same losses and gradients."""

import threading
from types import SimpleNamespace

import pytest
import torch

from tests.engine import alone, collator_of, pixel_vision, tower_of
from tests.passes import within
from training import adapter
from training.batching import Budget
from training.evaluate import Evaluator
from training.features.fill import drop_vision_tower, fill
from training.features.store import FeatureStore
from training.loss import score
from training.spec import Method
from training.vision import CachedVision, FrozenVision
from vlm.image_options import ImageOptions


@pytest.fixture
def rows(shelf):
    red, blue = ("red", (40, 30)), ("blue", (64, 32))
    return [
        shelf(("user", 1, red, "Which colour?"), ("assistant", 1, "red")),
        shelf(("user", 1, "Say hello."), ("assistant", 1, "Hello!")),
        shelf(("user", 1, red, blue, red, "first?"), ("assistant", 1, "red")),
    ]


@pytest.fixture
def child():
    events = SimpleNamespace(log=lambda *_, **__: None)
    return SimpleNamespace(events=events, check_stop=lambda: None, stop=threading.Event())


@pytest.fixture
def base(load_tiny):
    base = load_tiny()
    base.family.set_image_options(base.processor, ImageOptions(longest_edge=96, split=True))
    return base


@pytest.fixture
def model(base):
    torch.manual_seed(0)
    model = adapter.wrap(base, Method(type="lora", r=4), name="base").train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def learned(model, collator):
    model.zero_grad()
    scored = score(model, collator.batch(alone(0, 1, 2)))
    scored.loss_sum.backward()
    return scored.loss_sum.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("trains_connector", [False, True])
def test_where_features_come_from_changes_neither_loss_nor_gradient(
    base, model, rows, encoder_of, child, tmp_path, trains_connector
):
    encoder = encoder_of(base)
    tower = tower_of(base, encoder, trains_connector=trains_connector)
    store = FeatureStore(tmp_path / "features", {}, budget_bytes=10**9)
    fill(store, tower, {name: encoder.image_tokens(name) for row in rows for name in row.images}, child)
    pixels, frozen, kept = (
        learned(model, collator_of(base, rows, encoder, vision=vision))
        for vision in (pixel_vision(base, encoder), FrozenVision(tower), CachedVision(tower, store))
    )
    assert kept[0] == frozen[0] == pytest.approx(pixels[0], rel=1e-6)
    for name, gradient in kept[1].items():
        assert torch.equal(gradient, frozen[1][name])
        torch.testing.assert_close(gradient, pixels[1][name], rtol=1e-5, atol=1e-7)


def test_a_frozen_tower_is_out_of_the_graph_and_a_trained_connector_in_it(base, rows, encoder_of):
    encoder = encoder_of(base)
    for trains_connector in (False, True):
        base.model.model.connector.requires_grad_(trains_connector)
        tower = tower_of(base, encoder, trains_connector=trains_connector)
        seen = tower.encode(rows[2].images)
        assert not any(each.requires_grad for each in seen)
        arguments = FrozenVision(tower).inputs([rows[2].images])
        features = arguments["mm_encoder_outputs"]["image"].pooler_output
        assert all(each.requires_grad is trains_connector for each in features)


def test_training_goes_on_when_the_tower_is_gone(base, model, rows, encoder_of, child, tmp_path):
    encoder = encoder_of(base)
    tower = tower_of(base, encoder)
    store = FeatureStore(tmp_path / "features", {}, budget_bytes=10**9)
    fill(store, tower, {name: encoder.image_tokens(name) for row in rows for name in row.images}, child)
    before = learned(model, collator_of(base, rows, encoder, vision=CachedVision(tower, store)))
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    drop_vision_tower(base.model, base.family, keep_connector=False)
    after = learned(model, collator_of(base, rows, encoder, vision=CachedVision(tower, store)))
    assert after[0] == before[0]
    assert sum(parameter.numel() for parameter in model.parameters()) < num_parameters
    with pytest.raises(RuntimeError, match="tower is gone"):
        FrozenVision(tower).inputs([rows[0].images])


def test_an_image_that_appears_often_is_looked_at_once(base, rows, encoder_of):
    encoder = encoder_of(base)
    cut = []
    tower = tower_of(base, encoder)
    tower._cut = lambda name: cut.append(name) or encoder.pixels(name)
    FrozenVision(tower).inputs([rows[0].images, rows[2].images])
    assert len(cut) == 2


def test_a_trained_connector_draws_the_same_dropout_with_the_cache_and_without(base, rows, encoder_of, child, tmp_path):
    """The model's own `get_image_features` runs the connector, too, and its dropout moved the random numbers of the run."""
    torch.manual_seed(0)
    model = adapter.wrap(base, Method(type="lora", r=4, dropout=0.3, train_connector=True), name="base").train()
    encoder = encoder_of(base)
    tower = tower_of(base, encoder, trains_connector=True)
    store = FeatureStore(tmp_path / "features", {}, budget_bytes=10**9)
    fill(store, tower, {name: encoder.image_tokens(name) for row in rows for name in row.images}, child)
    losses = []
    for vision in (FrozenVision(tower), CachedVision(tower, store)):
        torch.manual_seed(1)
        losses += [learned(model, collator_of(base, rows, encoder, vision=vision))[0]]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("size", [(40, 30), (96, 96), (17, 90)])
def test_what_the_tower_sees_is_what_the_model_itself_makes_of_pixels(base, shelf, encoder_of, size):
    encoder = encoder_of(base)
    row = shelf(("user", 1, ("red", size), "?"), ("assistant", 1, "x"))
    pixels = encoder.pixels(row.images[0])
    whole = base.model.get_image_features(
        pixels["pixel_values"][None], pixels["pixel_attention_mask"][None], return_dict=True
    )
    (features,) = tower_of(base, encoder).encode(row.images)
    assert torch.equal(features, whole.pooler_output[0])


def test_a_validation_keeps_no_graph_of_a_connector_that_is_trained(base, rows, encoder_of):
    adapter.wrap(base, Method(type="lora", r=4, train_connector=True), name="base")
    encoder = encoder_of(base)
    collator = collator_of(base, rows, encoder, vision=FrozenVision(tower_of(base, encoder, trains_connector=True)))
    made, batch = [], collator.batch
    collator.batch = lambda micro_batch: made.append(batch(micro_batch)) or made[-1]
    Evaluator(collator=collator, lengths=[1, 1, 1], passes=within(Budget(num_examples=3)), precision="fp32").run(
        base.model, check_stop=lambda: None
    )
    features = made[0]["mm_encoder_outputs"]["image"].pooler_output
    assert not any(each.requires_grad for each in features)
