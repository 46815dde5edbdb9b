import pytest
import torch

from vlm import tiny
from vlm.demo import build


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(models_dir):
    return tiny.ensure(models_dir)


@pytest.fixture(scope="session")
def demo_folder(models_dir):
    return build.ensure(models_dir)
