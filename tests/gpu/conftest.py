"""What only a GPU can show: run `python -m pytest tests/gpu -s` on a machine that has one; elsewhere all of it is skipped."""

import pytest
import torch

from tests.unit.training.conftest import album, run, spec

__all__ = ["album", "run", "spec"]


def pytest_collection_modifyitems(items):
    """Mark everything here, and skip it where there is no GPU."""
    for item in items:
        if "tests/gpu" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(scope="session", autouse=True)
def _which_card():
    if torch.cuda.is_available():
        name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
        print(f"\n{name}, {memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}, torch {torch.__version__}")


@pytest.fixture
def losses(spec, run, tmp_path):
    """Fine-tune and return the loss of each step."""

    def losses(name, *, features="features", **asked):
        started = run(name)
        from training import pipeline

        cache = {"features_dir": tmp_path / features, "features_bytes": 10**9}
        pipeline.fine_tune(spec(seed=11, **cache, **asked), started.child)
        return [metric["loss"] for metric in started.metrics if "loss" in metric]

    return losses
