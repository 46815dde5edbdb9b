"""From a run's settings and the sizes of its examples to its memory plan. Torch-free."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from training.batching import Budget
from training.calibration import calibration
from training.memory import MemoryPlan, plan
from training.passes import Pass, Size, Sizes, passes_of
from training.planned_run import Device, PlannedRun
from training.settings import Schedule
from training.spec import Method
from vlm.geometry import Geometry
from vlm.lora_scope import asked_scope
from vlm.modules import LORA_NAMES

_MOST_STEPS = 200  # that are cut into passes; more show nothing new


def plan_run(geometry: Geometry, method: Method, schedule: Schedule, *, sizes: Sizes, device: Device) -> MemoryPlan:
    """Return what a run will hold on a device.

    Args:
        geometry: Of the base.
        method: What is trained.
        schedule: The settled hyperparameters.
        sizes: Of its examples and images.
        device: What it computes on.
    """
    train, budget = sizes.train, schedule.budget
    usual = _distinct(_usual_steps(len(train), schedule.batch_size), train, budget)
    heaviest = _distinct(_heaviest_steps(train, schedule.batch_size), train, budget)
    validation = _distinct([range(len(sizes.validation))], sizes.validation, budget)
    run = PlannedRun(
        geometry=geometry,
        method=method,
        scope=asked_scope(
            LORA_NAMES,
            method.target_modules,
            connector=method.train_connector,
            vision=method.train_vision,
            left_out=method.exclude_modules,
        ),
        schedule=schedule,
        device=device,
        passes=usual + heaviest,
        validation=validation,
        num_shapes=len({each.tokens for each in usual + validation}),
        images=sizes.images,
        num_tiles=sizes.all_tiles,
        distinct_tokens=sizes.distinct_tokens,
    )
    return plan(run, calibration())


def _usual_steps(num_examples: int, batch_size: int) -> Iterator[Sequence[int]]:
    """Yield steps as a run takes them, evenly from all."""
    starts = range(0, num_examples, batch_size)
    for start in starts[:: max(1, len(starts) // _MOST_STEPS)]:
        yield range(start, min(start + batch_size, num_examples))


def _heaviest_steps(sizes: Sequence[Size], batch_size: int) -> Iterator[Sequence[int]]:
    """Yield the heaviest steps that the order of a run could put together."""
    by_weight: tuple[Callable[[int], int], ...] = (
        lambda each: -sizes[each].tokens,
        lambda each: -sizes[each].labelled_tokens,
        lambda each: -sizes[each].tiles,
    )
    for weight in by_weight:
        yield sorted(range(len(sizes)), key=weight)[:batch_size]


def _distinct(steps: Iterable[Sequence[int]], sizes: Sequence[Size], budget: Budget) -> tuple[Pass, ...]:
    return tuple(dict.fromkeys(passes_of(filter(len, steps), sizes, budget)))
