"""What a run that changes the weights of its base must do alike when it is taken up again."""

import pytest

from tests.unit.training.test_pipeline import digest, losses
from tests.unit.training.test_resume import Scene

METHOD = {"type": "lora", "init": "pissa", "use_dora": True, "r": 4, "train_connector": True}
HYPERPARAMETERS = {
    "precision": "fp32",
    "max_steps": 6,
    "batch_size": 2,
    "learning_rate": 5e-3,
    "checkpoint_every": 3,
    "loraplus_lr_ratio": 4,
    "neftune_alpha": 5,
}


@pytest.fixture
def scene(tmp_path, models_dir):
    return Scene(tmp_path, models_dir)


def test_a_run_with_pissa_loraplus_and_noise_goes_on_exactly(scene):
    """PEFT takes PiSSA's start out of the base once more where it loads one; the decomposition is done anew."""
    asked = {"method": METHOD, "hyperparameters": HYPERPARAMETERS}
    whole = scene.run(**asked)
    rest = scene.go_on(scene.stopped(4, **asked), **asked)
    assert losses(rest) == losses(whole)[-len(losses(rest)) :]
    assert len(losses(rest)) == 2
    assert digest(rest) == digest(whole)
