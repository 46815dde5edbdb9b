"""Features are kept unless there is a reason not to, the reason is told, and a run that cannot keep them still trains."""

import pytest
import torch

from tests.engine import collator_of
from training import adapter
from training.encoding import Encoder
from training.features import store as stores
from training.features.choose import Wish, choose
from training.images import ImageFolder
from training.spec import Method
from training.vision import FrozenVision, KeptVision, PixelVision

GB = 10**9


@pytest.fixture
def choice(load, album, run, tmp_path):
    """Choose for a row with two pictures; return the choice, the base, and what was told."""

    def choice(**wished):
        base = load()
        adapter.wrap(base, Method(type="lora"), name="tiny")
        encoder = Encoder(base.processor, base.family, ImageFolder(album.folder))
        row = album.question("which?", "red", images=2)
        usual = {"trains_vision": False, "trains_connector": False, "wants_cache": True}
        usual |= {"cache_dir": tmp_path / "features", "budget_bytes": GB}
        started = run(f"run {len(list(tmp_path.iterdir()))}")
        tokens = {name: encoder.image_tokens(name) for name in row.images}
        vision = choose(Wish(**usual | wished), base, encoder, precision="fp32", tokens=tokens, child=started.child)
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
    assert isinstance(vision, KeptVision)
    assert not has_tower(base)
    assert lines == [("info", "2 images; the features of 0 are in the cache.")]
    *_, live = choice(wants_cache=False)
    assert torch.equal(kept, live)


def test_the_next_job_of_the_same_base_looks_at_nothing(choice, monkeypatch):
    choice()
    monkeypatch.setattr("training.vision.Tower.look", None)
    vision, _, lines, _ = choice()
    assert isinstance(vision, KeptVision)
    assert lines == [("info", "2 images; the features of 2 are in the cache.")]


def test_a_trained_connector_stays_and_what_lies_before_it_is_kept(choice):
    vision, base, _, kept = choice(trains_connector=True)
    assert isinstance(vision, KeptVision)
    assert not has_tower(base)
    assert any("connector" in name for name, _ in base.model.named_parameters())
    *_, live = choice(wants_cache=False)
    assert torch.equal(kept, live)


@pytest.mark.parametrize(
    ("wished", "kind", "reason"),
    [
        ({"trains_vision": True}, PixelVision, "the vision tower is trained"),
        ({"wants_cache": False}, FrozenVision, "hyperparameters.feature_cache is false"),
        ({"cache_dir": None}, FrozenVision, "LENSMITH_FEATURE_CACHE_BYTES"),
        ({"budget_bytes": 0}, FrozenVision, "LENSMITH_FEATURE_CACHE_BYTES"),
    ],
)
def test_the_reason_why_features_are_not_kept_is_told(choice, wished, kind, reason):
    vision, base, lines, _ = choice(**wished)
    assert isinstance(vision, kind)
    assert has_tower(base)
    assert len(lines) == 1
    assert reason in lines[0][1]


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
