"""Every image is looked at once, in passes of bounded size, also while another job does the same."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.engine import tower_of
from training import passes, pipeline
from training.features.fill import fill
from training.features.store import FeatureStore
from training.vision import Tower

COLOURS = ("red", "green", "blue", "white", "black")
TOKENS = 7  # of an image of `tiny`


@pytest.fixture
def looked(monkeypatch):
    """Record the images of every pass."""
    passes, look = [], Tower.encode

    def recording(tower, images):
        passes.append(list(images))
        return look(tower, images)

    monkeypatch.setattr(Tower, "encode", recording)
    return passes


@pytest.fixture
def images(album):
    return [album.image(colour) for colour in COLOURS]


def open_store(root, budget_bytes=10**9):
    return FeatureStore(root, {"base": "tiny"}, budget_bytes=budget_bytes)


def kept(root, names):
    """Return which images the next job finds, and what it hears of damage."""
    told = []
    return open_store(root).find(names, on_damage=told.append), told


def test_a_pass_holds_so_many_tokens_and_an_image_that_has_more_goes_alone(
    load, encoder_of, images, run, tmp_path, looked, monkeypatch
):
    monkeypatch.setattr(passes, "TOWER_TOKENS", 2 * TOKENS)
    base, store, started = load(), open_store(tmp_path / "features"), run()
    tower = tower_of(base, encoder_of(base))
    red, *others = images
    fill(store, tower, {red: 3 * TOKENS} | dict.fromkeys(others, TOKENS), started.child)
    assert looked == [[red], others[:2], others[2:]]
    for name in images:
        (alone,) = tower.encode([name])
        torch.testing.assert_close(store[name], alone, msg=f"{name} has the features of another image")


def test_a_run_looks_once_at_an_image_that_is_in_several_rows(album, spec, run, images, tmp_path, looked, monkeypatch):
    monkeypatch.setattr(passes, "TOWER_TOKENS", 2 * TOKENS)
    shown = [(0, 1), (1, 2), (0,), (2, 0, 2), (1,), (0, 1)]
    album.write(
        *(
            album.example(
                ("user", *(f"@{images[index]}" for index in row), "Which?"),
                ("assistant", "this"),
                row=number,
                split="validation" if number == 6 else "train",
            )
            for number, row in enumerate(shown, start=1)
        )
    )
    asked = {"precision": "fp32", "max_steps": 6, "batch_size": 2}
    pipeline.fine_tune(
        spec(hyperparameters=asked, features_dir=tmp_path / "features", features_bytes=10**9), run().child
    )
    assert sorted(name for each in looked for name in each) == sorted(images[:3])
    assert len(looked) == 2


@pytest.mark.parametrize("budget_images", [20, 5], ids=["room for both", "room for one"])
def test_two_jobs_that_fill_at_the_same_time_both_have_all(
    load, encoder_of, images, run, tmp_path, monkeypatch, budget_images
):
    """Both find nothing, look at everything and write; where there is no room for two, each may evict the other's."""
    base, root = load(), tmp_path / "features"
    tower = tower_of(base, encoder_of(base))
    expected = dict(zip(images, tower.encode(images), strict=True))
    nbytes = expected[images[0]].nbytes
    monkeypatch.setattr(passes, "TOWER_TOKENS", TOKENS)
    monkeypatch.setattr("training.features.store.SHARD_BYTES", 2 * nbytes)
    together, look = threading.Barrier(2, timeout=60), tower.encode

    def look_together(names):
        together.wait()
        return look(names)

    monkeypatch.setattr(tower, "encode", look_together)

    def job(number):
        store = open_store(root, budget_images * (nbytes + 500))
        fill(store, tower, dict.fromkeys(images, TOKENS), started[number].child)
        return store

    started = [run(f"job {number}") for number in range(2)]
    with ThreadPoolExecutor(2) as jobs:
        stores = list(jobs.map(job, range(2)))
    for store in stores:
        for name in images:
            torch.testing.assert_close(store[name], expected[name])
    if budget_images == 20:
        assert kept(root, images) == (set(images), [])
    assert [event.message for each in started for event in each.events if event.level == "warning"] == []
    assert not list(root.glob("*/.part-*"))
