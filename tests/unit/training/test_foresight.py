"""What a run is fitted to: rungs that round to what the device has for one run, exact ones also to what others leave."""

from types import SimpleNamespace

import pytest

from tests.unit.training.test_fit import sizes
from training.fit import Recipe
from training.foresight import Prospect, foresee
from training.settings import resolve
from training.spec import TrainingSpec
from vlm.geometry import find

GB = 10**9
ROOMY = 1000 * GB


class Heard:
    """A child whose supervisor hears what it plans."""

    def __init__(self):
        self.events = self
        self.plans, self.said = [], []

    def emit(self, event):
        self.plans.append(event.plan)

    def log(self, message, **_):
        self.said.append(message)


@pytest.fixture
def foreseen(monkeypatch, tmp_path):
    """Foresee a run of SmolVLM-500M over 64 long examples that leaves everything to us; return it, its plan, and what it said."""

    def foreseen(*, free=ROOMY, **asked):
        monkeypatch.setattr("training.device.memory_bytes", lambda: free)
        where = {"base_model": "smolvlm-500m", "models_dir": tmp_path, "dataset_dir": tmp_path, "dataset_digest": "d1"}
        spec = TrainingSpec.model_validate(
            where
            | {"seed": 1, "method": {"type": "auto", "r": 64}, "allow_quality_tradeoff": True}
            | {"hyperparameters": {"batch_size": 16, "precision": "bf16"}}
            | asked
        )
        schedule = resolve(spec.hyperparameters, num_examples=64, precision="bf16", on_gpu=False, can_pack=True)
        child = Heard()
        recipe = foresee(
            Prospect(
                asked=spec,
                recipe=Recipe(schedule=schedule, method=spec.method.settled, image=spec.image),
                geometry=find("smolvlm-500m"),
                sizes_of=lambda image: sizes(image.longest_edge),
                edges_px=(1024, 512),
            ),
            child=child,
        )
        (plan,) = child.plans
        return SimpleNamespace(recipe=recipe, plan=plan, said=child.said, learned=learned(recipe))

    return foreseen


def learned(recipe):
    return recipe.schedule.optimizer, recipe.method.resolved_quantization, recipe.image.longest_edge


def test_who_runs_beside_a_run_changes_how_it_is_computed_and_not_what_it_learns(foreseen):
    """Seen in CI: of two runs alike one had little beside another, kept its optimizer's state in 8 bits, and ended elsewhere."""
    alone = foreseen(beside_bytes=ROOMY, alone_bytes=ROOMY)
    short = foreseen(free=1, beside_bytes=1, alone_bytes=1)
    assert (alone.learned, short.learned) == (("adamw", "none", None), ("adamw_8bit", "none", 512))
    for free, beside in ((1, 1), (1, ROOMY), (ROOMY, 1)):
        found = foreseen(free=free, beside_bytes=beside, alone_bytes=ROOMY)
        assert found.learned == alone.learned
        assert found.recipe.schedule.compact_memory
        assert found.plan["peak"]["high"] < alone.plan["peak"]["high"]
        assert any("it is tried all the same" in message for message in found.said)


def test_beside_others_a_run_is_made_no_smaller_than_they_make_it(foreseen):
    alone = foreseen()
    beside = foreseen(beside_bytes=alone.plan["needed"] - 2 * 10**7, alone_bytes=ROOMY)
    assert beside.learned == alone.learned
    assert len(beside.plan["choices"]) == 1
    assert not any("tried all the same" in message for message in beside.said)


def test_what_a_device_has_for_one_run_is_what_rounds(foreseen):
    fitted = foreseen(free=3 * GB, beside_bytes=2 * GB, alone_bytes=3 * GB)
    assert fitted.learned == foreseen(free=3 * GB).learned != foreseen().learned


@pytest.mark.parametrize("free", [1, ROOMY])
def test_processes_of_one_run_choose_alike_whatever_each_finds_free(free, foreseen):
    one = foreseen(free=3 * GB)
    several = {"resources": {"gpus": 0, "num_processes": 2}}
    assert foreseen(free=free, **several, beside_bytes=6 * GB, alone_bytes=6 * GB).recipe == one.recipe
    assert foreseen(free=free, **several).recipe == foreseen().recipe, "nobody knows"
