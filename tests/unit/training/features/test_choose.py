"""Features are kept unless there is a reason not to, the reason is told, and a run that cannot keep them still trains."""

import pytest
import torch

from tests.engine import collator_of
from training import adapter
from training.encoding import Encoder
from training.features import store as stores
from training.features.choose import CacheRequest, choose
from training.images import ImageFolder
from training.spec import Method
from training.vision import CachedVision, FrozenVision, PixelVision

GB = 10**9


@pytest.fixture
def choice(load, album, run, tmp_path):
    """Choose for a row with two pictures; return the choice, the base, and what was told."""

    def choice(*, wants_cache=True, **wished):
        base = load()
        adapter.wrap(base, Method(type="lora"), name="tiny")
        encoder = Encoder(base.processor, base.family, ImageFolder(album.folder))
        row = album.question("which?", "red", images=2)
        usual = {"trains_vision": False, "trains_connector": False}
        usual |= {"cache_dir": tmp_path / "features", "budget_bytes": GB}
        started = run(f"run {len(list(tmp_path.iterdir()))}")
        tokens = {name: encoder.image_tokens(name) for name in row.images}
        vision = choose(
            CacheRequest(**usual | wished),
            base,
            encoder,
            wants_cache=wants_cache,
            precision="fp32",
            tokens=tokens,
            child=started.child,
        )
        batch = collator_of(base, [row], encoder, vision=vision).batch(((0,),))
        with torch.no_grad():
            logits = base.model(**{name: each for name, each in batch.items() if name != "labels"}).logits
        lines = [(event.level, event.message) for event in started.events if event.type == "log"]
        return vision, base, lines, logits

    return choice


def has_tower(base):
    return any("vision_model" in name for name, _ in base.model.named_parameters())


def test_features_are_kept_and_the_tower_goes(choice):
    vision, base, lines, kept = choice()
    assert isinstance(vision, CachedVision)
    assert not has_tower(base)
    assert lines == [("info", "2 images; the features of 0 are in the cache.")]
    *_, live = choice(wants_cache=False)
    assert torch.equal(kept, live)


def test_the_next_job_of_the_same_base_looks_at_nothing(choice, monkeypatch):
    choice()
    monkeypatch.setattr("training.vision.Tower.encode", None)
    vision, _, lines, _ = choice()
    assert isinstance(vision, CachedVision)
    assert lines == [("info", "2 images; the features of 2 are in the cache.")]


def test_a_trained_connector_stays_and_what_lies_before_it_is_kept(choice):
    vision, base, _, kept = choice(trains_connector=True)
    assert isinstance(vision, CachedVision)
    assert not has_tower(base)
    assert any("connector" in name for name, _ in base.model.named_parameters())
    *_, live = choice(wants_cache=False)
    assert torch.equal(kept, live)


def test_a_tower_that_is_trained_gets_pixels(choice):
    vision, base, _, _ = choice(trains_vision=True, wants_cache=False)
    assert isinstance(vision, PixelVision)
    assert has_tower(base)


def test_a_run_that_wants_no_cache_keeps_the_tower(choice):
    vision, base, _, _ = choice(wants_cache=False)
    assert isinstance(vision, FrozenVision)
    assert has_tower(base)


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ({"trains_vision": True}, "the vision tower is trained"),
        ({"cache_dir": None}, "LENSMITH_FEATURE_CACHE_BYTES"),
        ({"budget_bytes": 0}, "LENSMITH_FEATURE_CACHE_BYTES"),
    ],
)
def test_there_is_a_reason_why_features_cannot_be_kept(tmp_path, why, reason):
    usual = {"trains_vision": False, "trains_connector": False, "cache_dir": tmp_path, "budget_bytes": GB}
    assert CacheRequest(**usual).refusal is None
    assert reason in CacheRequest(**usual | why).refusal


def test_a_data_set_without_images_needs_no_tower(load, album, run):
    base = load()
    encoder = Encoder(base.processor, base.family, ImageFolder(album.folder))
    request = CacheRequest(trains_vision=False, trains_connector=False, cache_dir=None, budget_bytes=0)
    vision = choose(request, base, encoder, wants_cache=False, precision="fp32", tokens={}, child=run().child)
    assert vision.inputs([[], []]) == {}
    assert not has_tower(base)


def test_a_cache_that_cannot_be_opened_costs_the_cache_and_not_the_run(choice, tmp_path):
    (tmp_path / "file").write_text("in the way")
    vision, base, lines, _ = choice(cache_dir=tmp_path / "file" / "features")
    assert isinstance(vision, FrozenVision)
    assert has_tower(base)
    assert lines[-1][0] == "warning"


def test_features_that_would_not_fit_are_refused_at_the_first_image_and_the_run_goes_on(choice, tmp_path):
    vision, _, lines, _ = choice(budget_bytes=100)
    assert isinstance(vision, FrozenVision)
    level, message = lines[-1]
    assert level == "warning"
    assert "would take" in message
    assert not list(tmp_path.glob("features/*/*.safetensors"))


def test_a_full_disk_costs_the_cache_and_not_the_run(choice, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores.shard, "write", full)
    vision, base, lines, _ = choice()
    assert isinstance(vision, FrozenVision)
    assert has_tower(base)
    assert "No space left" in lines[-1][1]


def test_a_stop_during_the_fill_is_heard(choice, monkeypatch):
    from core.child import Child, StopRequested

    def stop(self):
        raise StopRequested

    monkeypatch.setattr(Child, "check_stop", stop)
    with pytest.raises(StopRequested):
        choice()
