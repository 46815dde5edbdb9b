"""Peak memory at SmolVLM-256M's full depth (untrained), printed; with the feature cache it must be the smaller one."""

import gc

import pytest
import torch

from training import pipeline
from vlm import geometry, untrained
from vlm.building import build_once

SIDES = {"1 tile": {"split": False}, "5 tiles": {"longest_edge": 1024}, "17 tiles": {"longest_edge": 2048}}
WAYS = {
    "cache": {},
    "no cache": {"feature_cache": False},
    "no cache, no checkpointing": {"feature_cache": False, "gradient_checkpointing": False},
}


@pytest.fixture(scope="session")
def full_size(models_dir):
    """The base at its full depth, with random weights."""
    shape = geometry.find("smolvlm-256m")
    depth = untrained.Depth(vision=shape.vision.layers, text=shape.text.layers)
    return build_once(models_dir / "full-size", lambda folder: untrained.write(folder, shape, depth=depth))


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize("tiles", SIDES)
def test_the_peak_of_three_ways_is_printed(album, spec, run, tmp_path, full_size, tiles, quantization):
    album.write(
        *(
            album.example(
                ("user", f"@{album.image(colour, (1024, 1024))}", "What is it?"), ("assistant", colour), row=n + 1
            )
            for n, colour in enumerate(("red", "green", "blue", "white"))
        )
    )
    method = {"type": "lora"} if quantization == "none" else {"type": "qlora", "quantization": quantization}
    peaks = {}
    for name, asked in WAYS.items():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        hyperparameters = {"max_steps": 2, "batch_size": 4, "micro_batch_size": 4} | asked
        job = spec(
            base_model=str(full_size),
            method=method,
            image=SIDES[tiles],
            hyperparameters=hyperparameters,
            features_dir=tmp_path / name,
            features_bytes=10**10,
        )
        result = pipeline.fine_tune(job, run(name).child)
        peaks[name] = result["peak_memory_bytes"]
    told = ", ".join(f"{name} {peak / 1e9:.2f} GB" for name, peak in peaks.items())
    print(f"\nsmolvlm-256m, {tiles}, {quantization}, 4 examples a pass: {told}")
    assert peaks["cache"] < peaks["no cache, no checkpointing"]
