"""Where the random number generators stand, so that a run can take up its draws again (dropout, the loader's seed)."""

import random
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomState:
    """The global generators of Python, NumPy and PyTorch; of every GPU as well where there are any."""

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    cpu: torch.Tensor
    cuda: list[torch.Tensor]

    @classmethod
    def now(cls) -> Self:
        """Return where they stand; it takes some 20 microseconds, so that every step can afford it."""
        return cls(
            python=random.getstate(),
            numpy=np.random.get_state(legacy=False),  # noqa: NPY002 - libraries draw from the global one
            cpu=torch.get_rng_state(),
            cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        )

    def restore(self) -> None:
        """Put them back."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
