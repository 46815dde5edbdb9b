"""How long an example takes, learned from the steps so far: what lasts, what was an accident, and where it is going.

Three things spoil a mean. A step that hung once says nothing of the next: a step counts for at most `_SPIKE` times the
median of the last five, and what it took beyond that counts only if it came again (a checkpoint every so many steps
does). A machine that another program slows down stays slow: where the steps split into two levels that noise does not
explain, those before are forgotten. And a run may slow down bit by bit: a line is fitted, and followed into what is still
to come, as far as its slope stands out from the noise.
"""

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

_RECENT_STEPS = 5
_SPIKE = 1.5  # times the median of the recent steps
_MAX_EXCESS = 4.0  # likewise, of what a step took beyond that
_MAX_BINS = 64
_MIN_LEVEL_BINS = 3  # of a new level
_JUMP_F = 25.0  # five standard errors: every split of up to 64 bins is tried
_SIGNIFICANT_T = 2.0
_EXPECTED_DRIFT = 0.1  # of the mean pace of what is to come, in units of the present one
_FLOOR = 0.01  # noise below it is not believed: a handful of equal steps proves nothing


@dataclass(slots=True)
class Bin:
    """Neighbouring steps.

    Attributes:
        at: Examples that came before it in this run, plus half of its own.
    """

    num_steps: int
    examples: float
    seconds: float
    at: float

    @property
    def pace(self) -> float:
        """Return seconds per example."""
        return self.seconds / self.examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What to expect of the examples to come.

    Attributes:
        now: Seconds of the next example.
        growth: Seconds by which each example takes longer than the one before.
        excess: Seconds of each example's share of what single steps take beyond the rest.
    """

    now: float
    growth: float
    excess: float

    def after(self, examples: float) -> float:
        """Return the seconds of one example when so many more have come."""
        return self.now + self.growth * examples + self.excess

    def seconds(self, examples: float) -> float:
        """Return how long the next examples take together."""
        return examples * self.after(examples / 2)


class Steps:
    """The steps that were measured since a run began or went on; old ones lie together in ever wider bins."""

    def __init__(self) -> None:
        self._first: list[tuple[int, float]] = []
        self._recent: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._bins: list[Bin] = []
        self._width = 1
        self._examples = 0.0
        self._excess = _Excess()

    def add(self, examples: int, seconds: float) -> None:
        """Count a step."""
        self._recent.append(seconds / examples)
        if len(self._first) < _RECENT_STEPS:  # the first step often warms up: judge it by those that follow
            self._first.append((examples, seconds))
            self._bins, self._examples, self._excess = [], 0.0, _Excess()
            for each in self._first:
                self._count(*each)
        else:
            self._count(examples, seconds)

    def pace(self, *, examples_left: float) -> Pace | None:
        """Return what the steps say of so many examples to come; None before the first."""
        if not self._bins:
            return None
        self._bins = _last_level(self._bins)
        mean, slope = _line(self._bins, examples_left=examples_left)
        examples = sum(each.examples for each in self._bins)
        centre = sum(each.examples * each.at for each in self._bins) / examples
        return Pace(
            now=mean + slope * (self._examples - centre),
            growth=max(0.0, slope),
            excess=self._excess.seconds / self._examples,
        )

    def _count(self, examples: int, seconds: float) -> None:
        usual = statistics.median_low(self._recent) * examples
        counted = min(seconds, _SPIKE * usual)
        self._excess.add(min(seconds - counted, _MAX_EXCESS * usual))
        self._examples += examples
        if not self._bins or self._bins[-1].num_steps == self._width:
            self._bins.append(Bin(0, 0.0, 0.0, 0.0))
        last = self._bins[-1]
        last.num_steps += 1
        last.examples += examples
        last.seconds += counted
        last.at = self._examples - last.examples / 2
        if len(self._bins) > _MAX_BINS:
            self._widen()

    def _widen(self) -> None:
        pairs = zip(self._bins[::2], [*self._bins[1::2], None], strict=False)
        self._bins = [one if other is None else _merged(one, other) for one, other in pairs]
        self._width *= 2


@dataclass(slots=True)
class _Excess:
    """What single steps took beyond the usual; the largest counts as the second largest does."""

    total: float = 0.0
    largest: float = 0.0
    second: float = 0.0

    def add(self, seconds: float) -> None:
        self.total += seconds
        self.largest, self.second = sorted((self.largest, self.second, seconds), reverse=True)[:2]

    @property
    def seconds(self) -> float:
        return self.total - self.largest + self.second


def _merged(one: Bin, other: Bin) -> Bin:
    examples = one.examples + other.examples
    at = (one.at * one.examples + other.at * other.examples) / examples
    return Bin(one.num_steps + other.num_steps, examples, one.seconds + other.seconds, at)


def _mean(bins: Sequence[Bin]) -> float:
    return sum(each.seconds for each in bins) / sum(each.examples for each in bins)


def _spread(bins: Sequence[Bin], mean: float, slope: float = 0.0) -> float:
    """Return the weighted sum of squares around a line."""
    centre = sum(each.examples * each.at for each in bins) / sum(each.examples for each in bins)
    return sum(each.examples * (each.pace - mean - slope * (each.at - centre)) ** 2 for each in bins)


def _spreads(bins: Sequence[Bin]) -> list[float]:
    """Return the weighted sum of squares of the first bin, of the first two, and so on, each around its own mean."""
    examples = seconds = spread = 0.0
    spreads = []
    for each in bins:
        before = seconds / examples if examples else each.pace
        examples, seconds = examples + each.examples, seconds + each.seconds
        spread += each.examples * (each.pace - before) * (each.pace - seconds / examples)  # Welford
        spreads.append(spread)
    return spreads


def _floor(bins: Sequence[Bin]) -> float:
    """Return the least sum of squares that is believed."""
    return sum(each.examples for each in bins) * (_FLOOR * _mean(bins)) ** 2


def _last_level(bins: list[Bin]) -> list[Bin]:
    """Return the bins since the pace last changed at once: two levels explain them far better than one, or a line."""
    if len(bins) < 2 * _MIN_LEVEL_BINS:
        return bins
    forwards, backwards = _spreads(bins), _spreads(bins[::-1])
    splits = range(_MIN_LEVEL_BINS, len(bins) - _MIN_LEVEL_BINS + 1)
    spreads = {at: forwards[at - 1] + backwards[len(bins) - at - 1] for at in splits}
    best = min(spreads, key=spreads.__getitem__)
    rest, floor = max(spreads[best], _floor(bins)), _floor(bins)
    explained = (_spread(bins, _mean(bins)) - rest) / (rest / (len(bins) - 2))
    line = max(_spread(bins, _mean(bins), _slope(bins)), floor)
    return bins[best:] if explained > _JUMP_F and rest < line else bins


def _slope(bins: Sequence[Bin]) -> float:
    mean = _mean(bins)
    centre = sum(each.examples * each.at for each in bins) / sum(each.examples for each in bins)
    width = sum(each.examples * (each.at - centre) ** 2 for each in bins)
    return sum(each.examples * (each.at - centre) * (each.pace - mean) for each in bins) / width if width else 0.0


def _line(bins: Sequence[Bin], *, examples_left: float) -> tuple[float, float]:
    """Return the mean, and the slope as far as it is believed.

    A drift of the mean over what is to come is expected to be about `_EXPECTED_DRIFT` of it (a normal prior); a measured
    one counts by its precision against that, so that the noise of a few steps is not followed to the end of the run.
    """
    mean, slope = _mean(bins), _slope(bins)
    if len(bins) <= 2 * _MIN_LEVEL_BINS or not slope:
        return mean, 0.0
    centre = sum(each.examples * each.at for each in bins) / sum(each.examples for each in bins)
    width = sum(each.examples * (each.at - centre) ** 2 for each in bins)
    variance = max(_spread(bins, mean, slope), _floor(bins)) / (len(bins) - 2) / width
    if slope**2 < _SIGNIFICANT_T**2 * variance:
        return mean, 0.0
    reach = bins[-1].at + bins[-1].examples / 2 - centre + examples_left / 2
    expected = (_EXPECTED_DRIFT * mean / reach) ** 2
    return mean, slope * expected / (expected + variance)
