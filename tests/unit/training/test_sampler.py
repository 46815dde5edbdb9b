from itertools import chain

import pytest
from accelerate.data_loader import skip_first_batches

from training.sampler import StepLoader, epoch_order


def steps(loader):
    return [batch["examples"] for batch in loader]


def test_an_epoch_takes_every_example_once_in_whole_steps():
    loader = StepLoader(10, 4, seed=3)
    assert [len(step) for step in steps(loader)] == [4, 4, 2]
    assert sorted(chain(*steps(loader))) == list(range(10))
    assert len(loader) == 3


def test_the_order_follows_from_the_seed_and_the_epoch_alone():
    one, other = StepLoader(50, 8, seed=3), StepLoader(50, 8, seed=3)
    other.set_epoch(1)
    assert steps(other) != steps(one)
    one.set_epoch(1)
    assert steps(other) == steps(one) == steps(one)
    assert epoch_order(50, seed=4, epoch=0) != epoch_order(50, seed=3, epoch=0)


@pytest.mark.parametrize("batch_size", [3, 8])
def test_the_order_does_not_depend_on_the_size_of_a_step(batch_size):
    assert list(chain(*steps(StepLoader(50, batch_size, seed=3)))) == epoch_order(50, seed=3, epoch=0)


def test_a_resumed_epoch_goes_on_behind_the_steps_that_were_taken():
    """transformers skips the batches of a resumed epoch with this function, and sets the epoch afterwards."""
    whole, resumed = StepLoader(10, 4, seed=3), skip_first_batches(StepLoader(10, 4, seed=3), 1)
    whole.set_epoch(2)
    resumed.batch_sampler.batch_sampler.set_epoch(2)
    assert steps(resumed) == steps(whole)[1:]


def test_the_order_is_not_that_of_the_rows():
    assert epoch_order(50, seed=0, epoch=0) != list(range(50))
    assert isinstance(epoch_order(2, seed=0, epoch=0)[0], int)
