"""The order of examples: which ones each optimizer step takes, from the seed and the epoch alone.

So a run that is resumed, or split over processes, takes the same examples in the same steps.
"""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from training.batching import num_steps_per_epoch


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> list[int]:
    """Return the examples of an epoch in their order: the permutation that accelerate's seedable sampler draws."""
    generator = torch.Generator().manual_seed(seed + epoch)
    return [int(index) for index in torch.randperm(num_examples, generator=generator)]


class StepSampler(Sampler[list[int]]):
    """Yields the examples of one optimizer step after the other.

    Args:
        num_examples: Of the training split.
        batch_size: Examples of a step; the last one of an epoch may have fewer.
        seed: Of the run.
    """

    def __init__(self, num_examples: int, batch_size: int, *, seed: int) -> None:
        self._num_examples = num_examples
        self._seed = seed
        self._epoch = 0
        self.batch_size = batch_size  # `skip_first_batches` of accelerate asks for these two
        self.drop_last = False

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = epoch_order(self._num_examples, seed=self._seed, epoch=self._epoch)
        for start in range(0, self._num_examples, self.batch_size):
            yield order[start : start + self.batch_size]

    def __len__(self) -> int:
        return num_steps_per_epoch(self._num_examples, self.batch_size)


class _Indices(Dataset[int]):
    """The numbers of the examples; what they hold is read when a micro-batch is made."""

    def __init__(self, num_examples: int) -> None:
        self._num_examples = num_examples

    def __len__(self) -> int:
        return self._num_examples

    def __getitem__(self, index: int) -> int:
        return index


class StepLoader(DataLoader[int]):
    """Batches of `{"examples": [...]}`, one for each optimizer step, the same on every process."""

    def __init__(self, num_examples: int, batch_size: int, *, seed: int) -> None:
        self._steps = StepSampler(num_examples, batch_size, seed=seed)
        super().__init__(_Indices(num_examples), batch_sampler=self._steps, collate_fn=_as_step)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; transformers' `Trainer` calls it."""
        self._steps.set_epoch(epoch)


def _as_step(examples: list[int]) -> dict[str, list[int]]:
    return {"examples": examples}
