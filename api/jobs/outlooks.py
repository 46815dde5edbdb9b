"""Plans of jobs that are not made yet: what `POST /jobs` refuses, keeps with the job, and answers to a dry run."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlmodel import Session

from api.jobs.places import Place, able
from api.jobs.schemas import JobCreate
from core.errors import Busy, Invalid
from core.queue import Queue
from models import dataset as datasets
from models import queue, worker
from models.dataset import Held
from training import duration
from training.fit import sentence_of
from training.outlook import Outlook, look_ahead
from training.spec import Hyperparameters
from vlm import blueprint
from vlm.blueprint import Blueprint
from vlm.conversation import Split
from vlm.size_histogram import SizeHistogram

T = TypeVar("T")
Key = tuple[Hashable, ...]

_FRESH_S, _RATE_FRESH_S = 1.0, 30.0
_MOST_KEPT = 1024
_MOST_TRIES = 10
_CHANGES_NOTHING = {  # of what a run holds, or how long it takes
    "learning_rate",
    "lr_scheduler",
    "loraplus_lr_ratio",
    "max_grad_norm",
    "warmup_ratio",
    "weight_decay",
    "checkpoint_every",
}
_ASKED = dict.fromkeys(("method", "hyperparameters", "image", "resources", "allow_quality_tradeoff"), True)
_OF_MEMORY = _ASKED | {"hyperparameters": Hyperparameters.model_fields.keys() - _CHANGES_NOTHING}
_BASED_ON = "sizes of the data set, text roughly"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is known of a job before it is made.

    Attributes:
        budget_gb: What it has to fit; None: nobody knows what there is.
        needed_bytes: That a worker must have free to take it beside others; None: nobody looks.
        least_bytes: That a worker must have free to take it when nothing else runs; None: nobody looks.
    """

    place: Place
    outlook: Outlook
    budget_gb: float | None
    needed_bytes: int | None
    least_bytes: int | None
    document: dict[str, Any]

    @property
    def fits(self) -> bool:
        """Tell whether it fits."""
        return self.budget_gb is None or self.outlook.fitted.fits(self.budget_gb)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A job that nobody has planned yet, with all that its plan is made from."""

    key: Key
    body: JobCreate
    base: Blueprint
    sizes: dict[str, Any]
    splits: Mapping[Split, int]
    places: Sequence[Place]
    rates: Mapping[str, float | None]


class NotPlanned(Exception):
    """A plan is wanted in a transaction, where nobody has the time to make one."""

    def __init__(self, *questions: Question) -> None:
        super().__init__(f"{len(questions)} plans are wanted")
        self.questions = questions


class Outlooks:
    """Plans jobs; one that is like another is planned once. Safe to ask from many threads."""

    def __init__(self, *, silent_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._silent_s = silent_s
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, Expected | None] = OrderedDict()
        self._bases: dict[str, tuple[float, Blueprint | None]] = {}
        self._rates: dict[tuple[str, str], tuple[float, float | None]] = {}
        self._workers: tuple[float, list[dict[str, Any]]] | None = None

    def planned(self, act: Callable[[], T]) -> T:
        """Do something in a transaction; where it lacks a plan, make that with no transaction open, and do it again."""
        for _ in range(_MOST_TRIES):
            try:
                return act()
            except NotPlanned as lacking:
                for question in lacking.questions:
                    self._remember(question.key, _expected(question))
        raise Busy("The workers change faster than the request can be planned; send it again.")

    def admit(self, session: Session, body: JobCreate, dataset: Held) -> Expected | None:
        """Return what is known of a job that may be made; None where nothing can be.

        Raises:
            Invalid: It fits neither what it asks for nor what any worker has, whatever is chosen for it.
            NotPlanned: Ask again in `planned`.
        """
        try:
            expected = self.of(session, body, dataset)
        except Invalid:  # it cannot be planned; its run will tell
            return None
        if not expected.fits:
            raise Invalid.field("#/resources/memory_gb", _refusal(expected, asked_gb=body.resources.memory_gb))
        return expected

    def of(
        self, session: Session, body: JobCreate, dataset: Held, *, place: Place | None = None, exact: bool = False
    ) -> Expected:
        """Return what is known of a job, on a device or on the best worker that is there.

        Args:
            session: Of a transaction; no plan is made in it.
            body: The job.
            dataset: Its data set.
            place: None: the best worker that is there.
            exact: Whether its settings are wanted as well, which others that hold the same do not share.

        Raises:
            Invalid: It cannot be planned: the field that is in the way, and why.
            NotPlanned: Ask again in `planned`.
        """
        base = self._base(body)
        places = able(self._capacities(session), body.resources) if place is None else (place,)
        rates = {each.name: self._rate(session, body.base_model, each) for each in places}
        key = _key(body, dataset, base, places, rates, exact=exact)
        with self._lock:
            is_known, expected = key in self._kept, self._kept.get(key)
            if is_known:
                self._kept.move_to_end(key)
        if expected is not None:
            return expected
        sizes, splits = None if is_known else datasets.sizes_of(session, dataset.id), dataset.splits or {}
        if sizes is None or not splits.get("train"):
            self._remember(key, None)
            why = "Nobody counted the sizes of this data set when it was validated; upload it again."
            raise Invalid.field("#/dataset", why)
        known: Mapping[Any, int] = splits
        raise NotPlanned(Question(key=key, body=body, base=base, sizes=sizes, splits=known, places=places, rates=rates))

    def _base(self, body: JobCreate) -> Blueprint:
        if body.resources.is_sharded or body.resources.parallelism == "model":
            why = f'"{body.resources.parallelism}" lays layers on several devices, which is not planned.'
            raise Invalid.field("#/resources/parallelism", why)
        known = self._bases.get(body.base_model)
        if known is None or self._clock() - known[0] >= _FRESH_S:
            if len(self._bases) >= _MOST_KEPT:
                self._bases.clear()
            known = self._bases[body.base_model] = (self._clock(), blueprint.find(body.base_model))
        if known[1] is None:
            why = f"What {body.base_model} holds cannot be planned: it is of another family, or its files are not on this machine."
            raise Invalid.field("#/base_model", why)
        return known[1]

    def _remember(self, key: Key, expected: Expected | None) -> None:
        with self._lock:
            self._kept[key] = expected
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)

    def _rate(self, session: Session, base_model: str, place: Place) -> float | None:
        """Return the seconds that an operation takes on a device, by earlier jobs of a base."""
        if not place.is_running:
            return None
        known = self._rates.get((base_model, place.name))
        if known is None or self._clock() - known[0] >= _RATE_FRESH_S:
            rate = duration.seconds_per_operation(queue.runs_of(session, base_model, place.name))
            known = self._rates[base_model, place.name] = (self._clock(), rate)
        return known[1]

    def _capacities(self, session: Session) -> list[dict[str, Any]]:
        if self._workers is None or self._clock() - self._workers[0] >= _FRESH_S:
            self._workers = (self._clock(), worker.capacities(session, Queue.GPU, silent_s=self._silent_s))
        return self._workers[1]


def _key(
    body: JobCreate,
    dataset: Held,
    base: Blueprint,
    places: Sequence[Place],
    rates: Mapping[str, float | None],
    *,
    exact: bool,
) -> Key:
    """Return what jobs have in common that hold the same and take as long."""
    asked = body.model_dump_json(include=_ASKED if exact else _OF_MEMORY)
    fast = tuple(f"{rate:.2g}" if rate else None for rate in rates.values())
    return dataset.id, dataset.digest, asked, base.origin, tuple(places), fast, exact


def _expected(question: Question) -> Expected:
    """Return what is known of a job on the first place that it fits; where it fits none, on the best."""
    best, *others = question.places
    on_best = _on(question, best)
    if on_best.fits:
        return on_best
    return next((found for found in (_on(question, place) for place in others) if found.fits), on_best)


def _on(question: Question, place: Place) -> Expected:
    resources = question.body.resources
    copies = resources.resolved_processes if place.device == "cpu" else 1  # that share what the place has
    place_gb = None if place.memory_gb is None else place.memory_gb / copies
    budgets = [each for each in (resources.memory_gb, None if place.is_running else place_gb) if each is not None]
    budget_gb = min(budgets) if budgets else place_gb
    outlook = look_ahead(
        question.body,
        question.base,
        SizeHistogram.model_validate(question.sizes),
        question.splits,
        device=place.device,
        precision=place.precision,
        budget_gb=budget_gb,
    )
    holds_alike = _holds_alike(question, place)
    least = outlook.least if resources.memory_gb is None else outlook.fitted
    return Expected(
        place=place,
        outlook=outlook,
        budget_gb=budget_gb,
        needed_bytes=copies * outlook.fitted.plan.most_bytes if holds_alike else None,
        least_bytes=copies * least.plan.most_bytes if holds_alike else None,
        document=outlook.fitted.document()
        | {"based_on": _BASED_ON, "place": place.name}
        | {"time": _time(outlook, place, question.rates[place.name])},
    )


def _holds_alike(question: Question, place: Place) -> bool:
    """Tell whether the job holds the same wherever it is run; without a worker, whichever comes may be of another kind."""
    kinds = {(each.device, each.precision, each.is_beside_gpu) for each in question.places}
    return len(kinds) == 1 and place.is_running and not place.is_beside_gpu


def _time(outlook: Outlook, place: Place, rate: float | None) -> dict[str, Any]:
    """Return how long it takes, by what is best known: earlier jobs, the device, nothing."""
    work = outlook.work
    if rate is not None:
        return duration.document(work, duration.seconds_as_before(work, rate), "earlier jobs with this base")
    if place.card is not None:
        seconds = duration.seconds_on(work, place.card)
        return duration.document(work, seconds, "operations over the data sheet's rate; not measured")
    if place.device == "cpu" and place.is_running:
        seconds = duration.seconds_on_cpu(work, outlook.fitted.recipe.schedule.precision, place.num_cores)
        return duration.document(work, seconds, "operations over what cores like these did")
    return duration.document(work, None, "nobody knows how fast the device is")


def _refusal(expected: Expected, *, asked_gb: float | None) -> str:
    fitted, place = expected.outlook.fitted, expected.place
    assert expected.budget_gb is not None
    if asked_gb is not None:
        return " ".join(sentence_of(fitted, asked_gb))
    needed = fitted.plan.most_bytes / 1e9
    return (
        f"The run fits no worker that is running: with everything that it may choose it may hold {needed:.2f} GB, and the "
        f"largest ({place.name}) has {expected.budget_gb:g} GB. Give resources.memory_gb of {fitted.needed_gb:.1f} or more to "
        "wait for a larger one; or choose a smaller base model, lower image.longest_edge, or split long rows."
    )
