"""One watcher per process reads the logs that are followed; however many follow, a tick costs one query and one more per log that grew."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from anyio import CapacityLimiter, to_thread

from api.jobs.logs import Encoded, encode
from api.jobs.tail import Place, Tail
from core.db import DATABASE_AWAY, Database
from core.errors import WorkFailed
from core.logs import get_logger
from core.wakeups import EVERYTHING, Listener
from models import event
from models.history import History
from models.states import WorkState

TICK_S = 0.5
LEAST_TICK_S = 0.05  # between two looks, however many wake-ups come
BATCH = 500  # items of one query
READERS = 4  # threads for replays: a thousand clients that come back at once leave threads to the other requests
CANCEL_S = 0.2  # until a task that has not ended is cancelled again

log = get_logger(__name__)


class Hub:
    """The tails of all followed jobs, and the watcher that fills them."""

    def __init__(self, database: Database, history: History, *, redis_url: str) -> None:
        self.history = history
        self.readers = CapacityLimiter(READERS)
        self._database = database
        self._listener = Listener(redis_url, self.wake)
        self._tails: dict[str, Tail] = {}
        self._wake = asyncio.Event()
        self._thread = CapacityLimiter(1)  # of its own: requests that wait for the database must not hold it up
        self._is_stopped = False

    @contextmanager
    def join(self, job_id: str, *, after: int) -> Iterator[tuple[Tail, Place]]:
        """Follow a job from behind the item `after` as long as the block lasts."""
        tail = self._tails.get(job_id)
        if tail is None or tail.is_closed:
            tail = self._tails[job_id] = Tail()
            self._wake.set()
        if self._is_stopped:
            tail.close()
        place = Place(after)
        tail.places.add(place)
        try:
            yield tail, place
        finally:
            tail.places.discard(place)
            if not tail.places and self._tails.get(job_id) is tail:
                del self._tails[job_id]

    def wake(self, work_id: str) -> None:
        """Look now, if this work is followed."""
        if work_id == EVERYTHING or work_id in self._tails:
            self._wake.set()

    @asynccontextmanager
    async def watching(self, stopping: asyncio.Event) -> AsyncIterator[None]:
        """Watch as long as the block lasts; when `stopping` is set, every stream is closed."""
        parts = (self._watch(), self._close_when(stopping), self._listener.run())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            yield
        finally:
            await _end(set(tasks))
            self._close()

    async def _watch(self) -> None:
        while True:
            is_behind = False
            try:
                is_behind = await self._tick()
            except (*DATABASE_AWAY, WorkFailed) as error:
                log.warning("logs cannot be read", error=str(error))
            except Exception:  # the edge of the task: without it nobody would ever hear of anything again
                log.exception("watcher broke")
            await asyncio.sleep(LEAST_TICK_S)
            if not is_behind:
                await self._woken(TICK_S - LEAST_TICK_S)

    async def _woken(self, within_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):  # `wait_for` of Python 3.11 may swallow a cancellation
                await self._wake.wait()

    async def _close_when(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._close()

    def _close(self) -> None:
        self._is_stopped = True
        for tail in self._tails.values():
            tail.close()

    async def _tick(self) -> bool:
        """Look at every followed job; True: some log had more than one query's worth."""
        self._wake.clear()
        tails = dict(self._tails)
        if not tails:
            return False
        heads = await to_thread.run_sync(self._heads, list(tails), limiter=self._thread)
        is_behind = False
        for job_id, tail in tails.items():
            if job_id in heads:
                is_behind |= await self._advance(job_id, tail, *heads[job_id])
            else:
                tail.close()
        return is_behind

    async def _advance(self, job_id: str, tail: Tail, last_seq: int, state: WorkState) -> bool:
        """Bring a tail to a log's end, or one query nearer; True: there is more."""
        if tail.head_seq is None:
            tail.begin(last_seq)
        elif tail.head_seq < last_seq:
            items = await to_thread.run_sync(self._items, job_id, tail.head_seq, limiter=self._thread)
            if items:
                tail.append(items)
        if tail.head_seq == last_seq:
            tail.stand(state)
        return tail.head_seq is not None and tail.head_seq < last_seq

    def _heads(self, job_ids: list[str]) -> dict[str, tuple[int, WorkState]]:
        with self._database.read() as session:
            return event.heads(session, job_ids)

    def _items(self, job_id: str, after: int) -> list[Encoded]:
        return [encode(row) for row in self.history.page(job_id, after=after, limit=BATCH) or []]


async def _end(tasks: "set[asyncio.Task[None]]") -> None:
    """Cancel tasks until they have ended: redis-py swallows a cancel that comes while it connects."""
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=CANCEL_S)
