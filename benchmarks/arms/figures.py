"""What one run is told and what it tells: the plan that goes into its process, the figures that come out. Torch-free."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from vlm.precision import Precision

Arm = Literal["cookbook", "stock", "plain", "lensmith", "exact"]


class Plan(BaseModel):
    """One run.

    Attributes:
        base: The model folder.
        train: The data set folder that is trained on.
        validation: The one that the trained model is scored on afterwards.
        longest_edge_px: `image.longest_edge`.
        counts_flops: Count operations instead of taking time; one epoch of the stock arms, whose epochs are alike.
        scratch: An empty folder.
    """

    model_config = ConfigDict(frozen=True)

    arm: Arm
    base: Path
    train: Path
    validation: Path
    longest_edge_px: int
    precision: Precision
    counts_flops: bool
    scratch: Path


class Figures(BaseModel):
    """What one run measured.

    Attributes:
        preparing_s: From the loaded base to the first step: wrapping, counting tokens, filling a cache.
        epochs_s: Seconds of each epoch, validation left out.
        losses: Of each optimizer step, as the trainer logs them.
        validation_loss: Nats per labelled token of the trained adapter over the live base, the same code for every arm.
        peak_bytes: The most that the process held until training ended.
        flops: Of all epochs; None in a timed run.
    """

    model_config = ConfigDict(frozen=True)

    preparing_s: float
    epochs_s: list[float]
    losses: list[float]
    validation_loss: float
    peak_bytes: int
    flops: int | None = None

    @property
    def total_s(self) -> float:
        """Return the seconds of preparing and all epochs."""
        return self.preparing_s + sum(self.epochs_s)


class Machine(BaseModel):
    """What the numbers depend on, as an empty process finds it.

    Attributes:
        empty_bytes: The peak of a process that has imported what every arm imports, and did nothing.
        precision: What this machine computes in by default.
        threads: Of torch.
        device: In words.
    """

    model_config = ConfigDict(frozen=True)

    empty_bytes: int
    precision: Precision
    threads: int
    device: str


def median(runs: Sequence[Figures]) -> Figures:
    """Return the median of each time and of the peak; losses are those of the first run."""
    return runs[0].model_copy(
        update={
            "preparing_s": statistics.median(run.preparing_s for run in runs),
            "epochs_s": [statistics.median(times) for times in zip(*(run.epochs_s for run in runs), strict=True)],
            "peak_bytes": round(statistics.median(run.peak_bytes for run in runs)),
        }
    )


def largest_difference(one: Figures, other: Figures) -> float:
    """Return the largest difference of two loss curves at the same step."""
    return max(abs(left - right) for left, right in zip(one.losses, other.losses, strict=True))
