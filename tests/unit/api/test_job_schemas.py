"""Whatever a job may ask for can be shown, before and after its run has settled it.

The answer once had the rules of a request: `micro_batch_size: 2` settled to no bound on tokens, `batch_size: 600` to passes of
600 examples, and `GET /jobs` was a 500 for every job of the page.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from api.jobs.schemas import JobHyperparameters, show_hyperparameters
from training import settings
from training.spec import Hyperparameters

CHOICES = {
    "epochs": [0.5, 3],
    "max_steps": [1, 70],
    "batch_size": [1, 16, 600],
    "micro_batch_size": [1, 2],
    "micro_batch_tokens": [64, 4096],
    "packing": [True, False],
    "feature_cache": [True, False],
    "warmup_ratio": [0, 0.5],
    "lr_scheduler": ["linear", "constant"],
    "optimizer": ["paged_adamw_8bit", "adamw"],
    "neftune_alpha": [0, 5],
    "gradient_checkpointing": [True, False, "selective"],
    "activation_offload": [True, False],
    "compact_memory": [True, False],
    "precision": ["fp32", "fp16"],
    "checkpoint_every": [1],
}
ASKED = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in CHOICES.items()})


@given(ASKED, st.booleans(), st.booleans(), st.sampled_from([None, "it changes"]))
def test_every_accepted_job_can_be_shown(asked, on_gpu, can_pack, no_features):
    try:
        accepted = Hyperparameters.model_validate(asked)
    except ValidationError:
        return
    settled = settings.resolve(
        accepted, num_examples=20, precision="fp32", on_gpu=on_gpu, can_pack=can_pack, no_features=no_features
    ).document()
    before, after = (show_hyperparameters(accepted.model_dump(), each) for each in ({}, settled))
    assert before.model_dump() == accepted.model_dump()
    shown = after.model_dump()
    assert shown["batch_size"] == settled["batch_size"]
    left = {name for name, value in shown.items() if value == "auto"}
    assert left <= {"max_steps", "epochs"}
    assert len(left) <= 1


def test_every_hyperparameter_is_shown():
    assert JobHyperparameters.model_fields.keys() == Hyperparameters.model_fields.keys()


@pytest.mark.parametrize("asked", [{}, {"max_steps": 5}])
def test_a_job_that_is_older_than_a_hyperparameter_can_be_shown(asked):
    assert show_hyperparameters(asked, {}).packing == "auto"
