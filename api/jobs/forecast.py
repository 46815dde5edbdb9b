"""When waiting work will start and end: the claims to come, simulated in the very order of `models.claims`. No SQL here.

What is assumed: workers stay as they are, nothing is submitted, nobody's share of the last day runs out meanwhile, where
several workers are free at once they claim in the order of their ids, and workers that share a device have memory for
what each of them takes.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

_Line = tuple[int, str, tuple[str, ...]]

_UNKNOWN_S = 3600.0  # stands in for a length that is not known, where only the order is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Work in the queue; `seconds` is how long it will run, `held_s` how long it may not be claimed yet.

    On a device where other work runs it is taken when `needed_bytes` are free, else when `least_bytes` are.
    """

    id: str
    project: str
    priority: int = 0
    seconds: float | None = None
    gpus: int = 0
    resource_class: str | None = None
    needed_bytes: int | None = None
    least_bytes: int | None = None
    held_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Leased work, how long it still runs, and whose worker's slot it fills."""

    project: str
    worker_id: str | None
    remaining_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A living worker; `memory_of` names the device whose memory it uses, alone or with others."""

    id: str
    gpus: int = 0
    classes: frozenset[str] = frozenset()
    memory_bytes: int | None = None
    headroom_bytes: int | None = None
    memory_of: str | None = None

    def can_take(self, work: Waiting) -> bool:
        """Tell whether it has what the work asks for, when nothing else runs on its device."""
        has_memory = self.memory_bytes is None or (work.least_bytes or 0) <= self.memory_bytes
        is_of_class = work.resource_class is None or work.resource_class in self.classes
        return work.gpus <= self.gpus and is_of_class and has_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What is known of one piece of waiting work; the seconds count from now."""

    position: int
    start_s: float | None
    finish_s: float | None
    waiting_for: str | None


def forecast(
    waiting: Sequence[Waiting],
    running: Sequence[Running],
    places: Sequence[Place],
    *,
    used_s: Mapping[str, float],
    project_bound: int = 0,
) -> dict[str, Estimate]:
    """Return what is known of each piece of waiting work, in the order of the claims."""
    queue = _Queue(running, places, used_s=used_s, project_bound=project_bound)
    queue.fill(waiting)
    starts = queue.run()
    leased: dict[str, int] = defaultdict(int)
    for each in running:
        leased[each.project] += 1
    rest = sorted((each for each in waiting if each.id not in starts), key=lambda each: (-each.priority, each.id))
    by_id = {each.id: each for each in waiting}
    running_at = {each.worker_id for each in running}
    idle = [each for each in places if each.id not in running_at]
    busy = {each.memory_of for each in places if each.id in running_at and each.memory_of is not None}
    estimates = {}
    for position, work in enumerate([*(by_id[key] for key in starts), *rest], start=1):
        start = starts.get(work.id)
        finish = None if start is None or work.seconds is None else start + work.seconds
        estimates[work.id] = Estimate(
            position=position,
            start_s=start,
            finish_s=finish,
            waiting_for=_waiting_for(work, places, num_leased=leased[work.project], project_bound=project_bound)
            or _short_of_memory(work, idle, busy),
        )
    return estimates


def _waiting_for(work: Waiting, places: Sequence[Place], *, num_leased: int, project_bound: int) -> str | None:
    """Say why free workers would not help; None where work waits for its turn."""
    if not any(each.can_take(work) for each in places):
        return _lacking(work, places)
    if work.held_s > 0:
        return f"held back for {work.held_s:.0f} s after a failure of storage"
    if project_bound and num_leased >= project_bound:
        return f"the project runs {num_leased} of {project_bound} jobs"
    return None


def _lacking(work: Waiting, places: Sequence[Place]) -> str:
    """Say what the workers lack, of which none can take the work."""
    if not places:
        return "no worker of the queue is running"
    of_class = [each for each in places if work.resource_class is None or work.resource_class in each.classes]
    if not of_class:
        return f"no worker offers class {work.resource_class}"
    if all(each.gpus < work.gpus for each in of_class):
        return f"no worker has {work.gpus} GPUs; the most is {max(each.gpus for each in of_class)}"
    most = max(each.memory_bytes or 0 for each in of_class if each.gpus >= work.gpus)
    return f"no worker has {_gb(work.least_bytes)} of memory; the most is {_gb(most)}"


def _short_of_memory(work: Waiting, idle: Sequence[Place], busy: Collection[str]) -> str | None:
    """Say that workers are idle and work still waits, because something else holds the memory of their devices."""
    short = []
    for place in (each for each in idle if each.can_take(work)):
        needed = (work.needed_bytes if place.memory_of in busy else work.least_bytes) or 0
        if place.headroom_bytes is None or place.headroom_bytes >= needed:
            return None
        short.append((needed - place.headroom_bytes, needed, place.headroom_bytes))
    if not short:
        return None
    _, needed, free = min(short)
    return f"it needs {_gb(needed)} of memory, and {_gb(free)} is free"


def _gb(num_bytes: int | None) -> str:
    return f"{(num_bytes or 0) / 1e9:.1f} GB"


@dataclass(slots=True)
class _Lease:
    """Work that runs in the simulation, from `began` to `ends`."""

    project: str
    place: Place | None
    began: float
    ends: float


class _Queue:
    """The simulated queue. Work that asks for the same waits in one line, so only the heads of lines are compared."""

    def __init__(
        self,
        running: Iterable[Running],
        places: Sequence[Place],
        *,
        used_s: Mapping[str, float],
        project_bound: int,
    ) -> None:
        self._places = sorted(places, key=lambda each: each.id)
        self._project_bound = project_bound
        self._used: dict[str, float] = defaultdict(float, used_s)
        self._lines: dict[_Line, deque[Waiting]] = {}
        self._held: list[Waiting] = []
        self._leases: list[_Lease] = []
        self._known_until, self._now = inf, 0.0
        by_id = {each.id: each for each in places}
        for each in running:
            place = by_id.get(each.worker_id or "")
            self._lease(each.project, place, each.remaining_s)

    def fill(self, waiting: Sequence[Waiting]) -> None:
        """Put work into its line, or aside while it is held back; what no worker can take never gets a turn."""
        possible = [work for work in waiting if any(place.can_take(work) for place in self._places)]
        self._held = sorted((work for work in possible if work.held_s > 0), key=lambda work: -work.held_s)
        lines: dict[_Line, list[Waiting]] = defaultdict(list)
        for work in possible:
            if work.held_s <= 0:
                lines[self._line(work)].append(work)
        self._lines = {key: deque(sorted(line, key=lambda work: work.id)) for key, line in lines.items()}

    def run(self) -> dict[str, float | None]:
        """Return when each is claimed, in the order of the claims; None: at a time that cannot be known."""
        starts: dict[str, float | None] = {}
        while self._lines or self._held:
            if claimed := self._claim():
                starts[claimed.id] = self._now if self._now <= self._known_until else None
                if claimed.seconds is None:
                    self._known_until = min(self._known_until, self._now)
            elif not self._advance():
                break
        return starts

    def _claim(self) -> Waiting | None:
        busy = {lease.place.id for lease in self._leases if lease.place is not None}
        counts: dict[str, int] = defaultdict(int)
        for lease in self._leases:
            counts[lease.project] += 1
        for place in self._places:
            if place.id in busy:
                continue
            heads = [
                line[0]
                for line in self._lines.values()
                if place.can_take(line[0]) and not 0 < self._project_bound <= counts[line[0].project]
            ]
            if heads:
                work = min(heads, key=lambda each: (-each.priority, counts[each.project], self._usage(each), each.id))
                self._take(work, place)
                return work
        return None

    def _take(self, work: Waiting, place: Place) -> None:
        line = self._lines[self._line(work)]
        line.popleft()
        if not line:
            del self._lines[self._line(work)]
        self._lease(work.project, place, work.seconds)

    def _line(self, work: Waiting) -> _Line:
        """Return what work that waits in one line has in common: nothing but age tells it apart."""
        able = tuple(place.id for place in self._places if place.can_take(work))
        return work.priority, work.project, able

    def _usage(self, work: Waiting) -> float:
        of_project = (self._now - lease.began for lease in self._leases if lease.project == work.project)
        return self._used[work.project] + sum(of_project)

    def _lease(self, project: str, place: Place | None, seconds: float | None) -> None:
        if seconds is None:
            self._known_until = min(self._known_until, self._now)
        self._leases.append(_Lease(project, place, self._now, self._now + (_UNKNOWN_S if seconds is None else seconds)))

    def _advance(self) -> bool:
        """Go to the next moment at which anything changes; False: there is none."""
        moments = [lease.ends for lease in self._leases] + [work.held_s for work in self._held[-1:]]
        if not moments:
            return False
        self._now = max(self._now, min(moments))
        for lease in [lease for lease in self._leases if lease.ends <= self._now]:
            self._used[lease.project] += lease.ends - lease.began
            self._leases.remove(lease)
        while self._held and self._held[-1].held_s <= self._now:
            work = self._held.pop()
            line = self._lines.setdefault(self._line(work), deque())
            self._lines[self._line(work)] = deque(sorted([*line, work], key=lambda each: each.id))
        return True
