"""Plans of jobs that are not made yet: what `POST /jobs` refuses, keeps with the job, and answers to a dry run."""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from api.jobs.places import Place, best
from api.jobs.schemas import JobCreate
from core.errors import Invalid
from core.queue import Queue
from models import dataset as datasets
from models import queue, worker
from models.dataset import Held
from training import duration
from training.fit import sentence_of
from training.outlook import Outlook, look_ahead
from vlm import blueprint
from vlm.size_histogram import SizeHistogram

_FRESH_S, _RATE_FRESH_S = 1.0, 30.0
_MOST_KEPT = 256
_ASKED = {"base_model", "method", "hyperparameters", "image", "resources", "allow_quality_tradeoff"}
_BASED_ON = "sizes of the data set, text roughly"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is known of a job before it is made.

    Attributes:
        budget_gb: What it has to fit; None: nobody knows what there is.
        needed_bytes: That a worker must have free to take it.
    """

    place: Place
    outlook: Outlook
    budget_gb: float | None
    needed_bytes: int
    document: dict[str, Any]

    @property
    def fits(self) -> bool:
        """Tell whether it fits."""
        return self.budget_gb is None or self.outlook.fitted.fits(self.budget_gb)


class Outlooks:
    """Plans jobs; one that is like another is planned once. Safe to ask from many threads."""

    def __init__(self, *, silent_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._silent_s = silent_s
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Expected] = OrderedDict()
        self._rates: dict[str, tuple[float, float | None]] = {}
        self._workers: tuple[float, list[dict[str, Any]]] | None = None

    def admit(self, session: Session, body: JobCreate, dataset: Held) -> Expected | None:
        """Return what is known of a job that may be made; None where nothing can be.

        Raises:
            Invalid: It fits neither what it asks for nor what any worker has, whatever is chosen for it.
        """
        try:
            expected = self.of(session, body, dataset)
        except Invalid:  # it cannot be planned; its run will tell
            return None
        if not expected.fits:
            raise Invalid.field("#/resources/memory_gb", _refusal(expected, asked_gb=body.resources.memory_gb))
        return expected

    def of(self, session: Session, body: JobCreate, dataset: Held, *, place: Place | None = None) -> Expected:
        """Return what is known of a job, on a device or on the best worker that is there.

        Raises:
            Invalid: It cannot be planned: the field that is in the way, and why.
        """
        if place is None:
            place = best(self._capacities(session), body.resources)
        asked = body.model_dump_json(include=_ASKED)
        rate = self._rate(session, body.base_model) if place.is_running else None
        key = json.dumps([dataset.digest, asked, repr(place), rate and f"{rate:.2g}"])
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        expected = _expected(session, body, dataset, place, rate)
        with self._lock:
            self._kept[key] = expected
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return expected

    def _rate(self, session: Session, base_model: str) -> float | None:
        """Return the seconds that an example of a base takes, by earlier jobs."""
        with self._lock:
            known = self._rates.get(base_model)
            if known is None or self._clock() - known[0] >= _RATE_FRESH_S:
                known = self._rates[base_model] = (self._clock(), queue.seconds_per_example(session, base_model))
            return known[1]

    def _capacities(self, session: Session) -> list[dict[str, Any]]:
        with self._lock:
            if self._workers is None or self._clock() - self._workers[0] >= _FRESH_S:
                found = worker.capacities(session, Queue.GPU, silent_s=self._silent_s)
                self._workers = (self._clock(), found)
            return self._workers[1]


def _expected(session: Session, body: JobCreate, dataset: Held, place: Place, rate: float | None) -> Expected:
    if body.resources.is_sharded or body.resources.parallelism == "model":
        why = f'"{body.resources.parallelism}" lays layers on several devices, which is not planned.'
        raise Invalid.field("#/resources/parallelism", why)
    found = blueprint.find(body.base_model)
    if found is None:
        why = f"What {body.base_model} holds cannot be planned: it is of another family, or its files are not on this machine."
        raise Invalid.field("#/base_model", why)
    sizes = datasets.sizes_of(session, dataset.id)
    splits: Mapping[Any, int] = dataset.splits or {}
    if sizes is None or not splits.get("train"):
        why = "Nobody counted the sizes of this data set when it was validated; upload it again."
        raise Invalid.field("#/dataset", why)
    budget_gb = body.resources.memory_gb if body.resources.memory_gb is not None else place.memory_gb
    outlook = look_ahead(
        body,
        found,
        SizeHistogram.model_validate(sizes),
        splits,
        device=place.device,
        precision=place.precision,
        budget_gb=budget_gb,
    )
    is_bound = body.resources.memory_gb is not None
    return Expected(
        place=place,
        outlook=outlook,
        budget_gb=budget_gb,
        needed_bytes=(outlook.fitted if is_bound else outlook.least).plan.most_bytes,
        document=outlook.fitted.document()
        | {"based_on": _BASED_ON, "place": place.name, "settings": outlook.settings()}
        | {"time": _time(outlook, place, rate)},
    )


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
