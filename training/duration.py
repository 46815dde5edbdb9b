"""How long a run takes, before it starts: steps, tokens, operations, and seconds as a range. Torch-free.

Operations are those of matrix products and attention (2 for each multiplication with an addition), as `torch.utils.flop_counter`
counts them; a test holds the two against each other. The base is frozen, so a backward pass costs as much as a forward pass,
not twice as much. Seconds follow from what a device does of them, or, far better, from earlier jobs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from training.cards import Card
from training.passes import Size, Sizes
from training.settings import Schedule
from training.spec import Method
from vlm.geometry import Geometry
from vlm.modules import modules_of
from vlm.precision import Precision

Range = tuple[float, float, float]  # low, expected, high

# What two cores with AVX512-BF16 did of the operations of whole runs, per core (docs/benchmarks.md, five tiles).
_PER_CORE: dict[Precision, float] = {"bf16": 45e9, "fp16": 45e9, "fp32": 25e9}
_CPU_RANGE = (0.4, 2.5)  # of the expected time
_GPU_SHARES = (0.45, 0.2, 0.05)  # of the data sheet's rate: not measured
_LOADING_S = 20.0  # before the first step, whatever the run
_MEASURED_RANGE = (0.7, 1.4)  # earlier jobs lay within, on machines that were busy as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a run has to do.

    Attributes:
        tokens: That go through the text model, repeats included, padding not.
        operations: Of everything.
    """

    steps: int
    examples: int
    tokens: int
    operations: float


def workload_of(
    geometry: Geometry, method: Method, schedule: Schedule, sizes: Sizes, *, num_validation: int
) -> Workload:
    """Return what a run has to do, validation after each epoch included.

    Of `sizes` there may be fewer than of examples; then they stand for all of them.
    """
    linear = [module for module in modules_of(geometry) if module.is_linear]
    weights = sum(module.num_weights for module in linear if module.part == "text")
    connector = sum(module.num_weights for module in linear if module.part == "connector")
    examples = schedule.num_trained(schedule.total_steps)
    validated = num_validation * max(1, math.ceil(schedule.epochs))
    passes = 2 + (schedule.gradient_checkpointing is not False)  # there, back, and perhaps there again
    text = examples * passes * _mean(sizes.train, lambda size: _text(geometry, weights, size))
    text += validated * _mean(sizes.validation, lambda size: _text(geometry, weights, size))
    shown = examples * (passes if method.train_vision else 1) * _mean(sizes.train, lambda size: size.tiles)
    shown += validated * _mean(sizes.validation, lambda size: size.tiles)
    tiles = sizes.all_tiles if schedule.feature_cache else shown
    return Workload(
        steps=schedule.total_steps,
        examples=examples,
        tokens=round(examples * _mean(sizes.train, lambda size: size.tokens)),
        operations=text + tiles * _tile(geometry, connector),
    )


def _mean(sizes: Sequence[Size], value: Callable[[Size], float]) -> float:
    return fmean(map(value, sizes)) if sizes else 0.0


def _text(geometry: Geometry, weights: int, size: Size) -> float:
    """Return the operations of one forward pass of the text model over an example, its head included."""
    text = geometry.text
    head = 2 * text.vocabulary * text.hidden
    attention = 4 * text.layers * text.hidden  # products of each pair of tokens
    return float(2 * weights * size.tokens + attention * size.tokens**2 + head * size.labelled_tokens)


def _tile(geometry: Geometry, connector: int) -> float:
    """Return the operations of one tile through the tower and the connector."""
    vision = geometry.vision
    layer = 4 * vision.hidden**2 + 2 * vision.hidden * vision.intermediate
    patch = 3 * vision.patch_px**2 * vision.hidden
    attention = 4 * vision.layers * vision.hidden * vision.patches**2
    return float(
        2 * vision.patches * (vision.layers * layer + patch) + attention + 2 * connector * geometry.tokens_per_tile
    )


def seconds_on_cpu(work: Workload, precision: Precision, num_cores: int) -> Range:
    """Return about how long a run takes on a CPU."""
    expected = work.operations / (_PER_CORE[precision] * max(1, num_cores))
    return _range(expected * _CPU_RANGE[0], expected, expected * _CPU_RANGE[1])


def seconds_on(work: Workload, card: Card) -> Range:
    """Return about how long a run takes on a card."""
    fast, usual, slow = (work.operations / (card.operations_per_s * share) for share in _GPU_SHARES)
    return _range(fast, usual, slow)


def seconds_per_operation(runs: Sequence[tuple[float, float]]) -> float | None:
    """Return the median over runs of (seconds, operations), without what each takes before its first step."""
    return median(max(0.0, seconds - _LOADING_S) / operations for seconds, operations in runs) if runs else None


def seconds_as_before(work: Workload, rate: float) -> Range:
    """Return about how long a run takes by the seconds that an operation of earlier jobs took on such a device."""
    expected = work.operations * rate
    return _range(expected * _MEASURED_RANGE[0], expected, expected * _MEASURED_RANGE[1])


def _range(low: float, expected: float, high: float) -> Range:
    """Add what a run takes before its first step; with everything at hand that is next to nothing."""
    return low, _LOADING_S + expected, _LOADING_S + high


def document(work: Workload, seconds: Range | None, source: str) -> dict[str, Any]:
    """Return the time of a run as JSON."""
    low, expected, high = seconds or (None, None, None)
    return {
        "steps": work.steps,
        "examples": work.examples,
        "tokens": work.tokens,
        "operations": work.operations,
        "seconds": None if seconds is None else {"low": low, "expected": expected, "high": high},
        "source": source,
    }
