"""The rule of `training.eta`, on simulated runs: the clock is ours, so what is truly left is known."""

import random
from dataclasses import dataclass, field

import pytest

from training import settings
from training.eta import Eta
from training.spec import Hyperparameters

SEEDS = range(20)
WITHIN = 0.15


def steady(_at: float) -> float:
    return 1.0


@dataclass
class Run:
    """A run of which every step and every evaluation is drawn beforehand.

    `pace` gives the cost of an example by the share of the steps that are done, 0 to 1; `evaluation` the cost of one in
    epochs of training.
    """

    num_steps: int
    steps_per_epoch: int
    pace: callable = steady
    noise: float = 0.0
    evaluation: float = 0.0
    from_step: int = 0
    checkpoint: float = 0.0
    stalls: dict = field(default_factory=dict)
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self):
        self.random = random.Random(self.seed)
        self.now = 0.0
        last = self.random.randint(1, self.batch_size)  # the last step of an epoch holds fewer
        self.schedule = settings.resolve(
            Hyperparameters(max_steps=self.num_steps, batch_size=self.batch_size),
            num_examples=(self.steps_per_epoch - 1) * self.batch_size + last,
            precision="fp32",
            on_gpu=False,
            can_pack=True,
        )
        assert self.schedule.steps_per_epoch == self.steps_per_epoch
        guess = random.Random(self.seed).uniform(0.9, 1.1)  # how far the guess of the first is from its cost
        self.num_validation = max(1, round(2 * self.evaluation * guess * self.schedule.num_examples))
        if not self.evaluation:
            self.num_validation = 0
        self.eta = Eta(self.schedule, num_validation=self.num_validation, clock=lambda: self.now)

    def told(self):
        """Return (step, estimate, truth) after some thirty of the steps."""
        estimates = []
        self.eta.begin(self.from_step)
        for step in range(self.from_step + 1, self.num_steps + 1):
            self.now += self._step_s(step)
            self.eta.end_step()
            if self.random.random() < 30 / self.num_steps or step == self.num_steps // 10:
                estimates.append((step, self.eta.remaining_s, self.now))
            if step % self.schedule.checkpoint_every == 0:
                self.now += self.checkpoint
            if step % self.steps_per_epoch == 0 and step < self.num_steps and self.evaluation:
                self._evaluate(step)
                self.eta.end_evaluation()
        if self.evaluation:
            self._evaluate(self.num_steps)
        return [(step, estimate, self.now - at) for step, estimate, at in estimates]

    def misses(self, *, since=0.1, until=1.0):
        """Return where the estimate was off by more than the rule allows; the last step may be off by its own noise."""
        begin = self.from_step + since * (self.num_steps - self.from_step)
        return [
            (self.seed, step, round(estimate / truth, 3))
            for step, estimate, truth in self.told()
            if begin <= step <= until * self.num_steps and abs(estimate - truth) > WITHIN * truth + 3 * self.noise * 10
        ]

    def _step_s(self, step):
        examples = self.schedule.num_trained(step) - self.schedule.num_trained(step - 1)
        pace = self.pace((step - 0.5) / self.num_steps) * max(0.1, self.random.gauss(1, self.noise))
        return examples * pace + self.stalls.get(step, 0.0)

    def _evaluate(self, step):
        whole = self.evaluation * self.schedule.num_examples
        self.now += whole * self.pace(step / self.num_steps) * self.random.gauss(1, 0.02)


def linear(at: float) -> float:
    return 1 + at / 2


def jump(where: float, factor: float):
    return lambda at: factor if at > where else 1.0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_steady_run(seed):
    draw = random.Random(seed)
    assert not Run(draw.randint(10, 1500), draw.randint(1, 300), seed=seed).misses()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_noisy_run(seed):
    draw = random.Random(seed)
    steps = draw.randint(100, 1500)
    noise = draw.uniform(0, 0.015 * (steps / 10) ** 0.5)
    assert not Run(steps, draw.randint(1, 300), noise=noise, seed=seed).misses()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_that_slows_down_bit_by_bit(seed):
    draw = random.Random(seed)
    steps = draw.randint(400, 1500)
    evaluation = draw.choice([0, draw.uniform(0.05, 1)])
    run = Run(steps, draw.randint(50, 500), pace=linear, noise=draw.uniform(0, 0.02), evaluation=evaluation, seed=seed)
    assert not run.misses()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_that_slows_down_at_once(seed):
    draw = random.Random(seed)
    steps, where = draw.randint(100, 1500), draw.uniform(0.05, 0.8)
    run = Run(steps, draw.randint(5, 300), pace=jump(where, 1.5), noise=draw.uniform(0, 0.05), seed=seed)
    assert not run.misses(since=max(0.1, where + 0.05))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_whose_later_epochs_are_faster(seed):
    draw = random.Random(seed)
    steps = draw.randint(100, 1500)
    run = Run(steps, steps // 4, pace=jump(0.25, 0.4), noise=draw.uniform(0, 0.05), seed=seed)
    assert not run.misses(since=0.3)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_with_evaluations_up_to_the_cost_of_an_epoch(seed):
    draw = random.Random(seed)
    steps = draw.randint(100, 1500)
    run = Run(steps, draw.randint(1, steps), evaluation=draw.uniform(0.02, 1), noise=draw.uniform(0, 0.04), seed=seed)
    assert not run.misses()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_of_short_epochs(seed):
    draw = random.Random(seed)
    steps = draw.randint(30, 200)
    run = Run(steps, draw.randint(1, 4), evaluation=draw.uniform(0.02, 1), noise=draw.uniform(0, 0.02), seed=seed)
    assert not run.misses()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_that_goes_on_from_a_checkpoint_measures_anew(seed):
    draw = random.Random(seed)
    steps = draw.randint(200, 1500)
    run = Run(
        steps,
        draw.randint(5, 300),
        evaluation=draw.uniform(0, 1),
        noise=draw.uniform(0, 0.03),
        from_step=int(steps * draw.uniform(0.1, 0.5)),
        seed=seed,
    )
    assert not run.misses()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_that_hung_once_is_not_taken_for_a_slow_one(seed):
    draw = random.Random(seed)
    steps = draw.randint(100, 1500)
    stall = draw.randint(1, steps // 10)
    run = Run(steps, draw.randint(5, 300), noise=draw.uniform(0, 0.04), stalls={stall: 10 * steps}, seed=seed)
    assert not run.misses()


@pytest.mark.parametrize("seed", SEEDS)
def test_checkpoints_that_cost_a_part_of_the_run_are_counted(seed):
    draw = random.Random(seed)
    run = Run(draw.randint(300, 1500), 100, checkpoint=draw.uniform(0, 4) * 8, noise=draw.uniform(0, 0.04), seed=seed)
    assert not run.misses(since=0.2)


def test_time_in_an_evaluation_does_not_slow_the_rate():
    run = Run(20, 5, evaluation=1)
    run.told()
    assert run.eta.examples_per_s == pytest.approx(1.0)


def test_before_the_first_step_nothing_is_known():
    run = Run(20, 5)
    assert (run.eta.remaining_s, run.eta.examples_per_s) == (None, None)
