"""What a job asks for, known when it is made: the same steps as the run itself will plan."""

import pytest

from api.jobs.needs import needs
from training import settings
from training.resources import Resources
from training.spec import Hyperparameters

SPLITS = {"train": 100, "validation": 10}


def test_what_is_asked_of_a_worker_goes_into_its_columns():
    asked = Resources.model_validate({"gpus": 2, "class": "big"})
    needed = needs(asked, Hyperparameters(), SPLITS)
    assert (needed.gpus, needed.resource_class) == (2, "big")
    plain = needs(Resources(), Hyperparameters(), SPLITS)
    assert (plain.gpus, plain.resource_class) == (0, None)


@pytest.mark.parametrize("splits", [None, {}, {"validation": 10}])
def test_a_data_set_whose_splits_are_not_known_gives_no_length(splits):
    assert needs(Resources(), Hyperparameters(), splits).planned_examples is None


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"epochs": 3, "batch_size": 10}, 300),
        ({"epochs": 1, "batch_size": 7}, 100),
        ({"epochs": 0.5, "batch_size": 10}, 50),
        ({"max_steps": 4, "batch_size": 10}, 40),
        ({"max_steps": 25, "batch_size": 10}, 250),
    ],
)
def test_the_length_counts_the_examples_that_are_trained(asked, expected):
    hyperparameters = Hyperparameters.model_validate(asked)
    assert needs(Resources(), hyperparameters, SPLITS).planned_examples == expected
    for on_gpu in (False, True):  # whatever the device settles, the number is that of the run
        run = settings.resolve(hyperparameters, num_examples=100, precision="fp32", on_gpu=on_gpu, can_pack=on_gpu)
        assert run.num_trained(run.total_steps) == expected
