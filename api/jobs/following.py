"""Following a log: replay from where it lies, then the shared tail, with no gap and no double in between."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass

from anyio import to_thread

from api.jobs.hub import BATCH, Hub
from api.jobs.logs import Framing, encode
from api.jobs.tail import Place, Tail
from core.db import DATABASE_AWAY
from core.errors import WorkFailed
from core.logs import get_logger
from models.states import TERMINAL, EventKind, WorkState

KEEPALIVE_S = 15.0
PIECE_BYTES = 64 * 1024

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """Whose log, from where on, and what of it."""

    job_id: str
    after: int
    kinds: frozenset[EventKind] | None


async def stream(hub: Hub, follow: Follow, framing: Framing) -> AsyncIterator[bytes]:
    """Yield a job's log until the job has ended, the client left, or the server stops.

    The stream closes without `end`, so that a client comes back with `Last-Event-ID`, when the server stops, when the log
    cannot be read, and when a client is so slow that what it needs next is no longer kept in memory.
    """
    with hub.join(follow.job_id, after=follow.after) as (tail, place):
        while tail.head_seq is None or place.seq < tail.start_seq:
            replay = _Replay(hub, follow, framing)
            async for data in replay.run(tail, place):
                yield data
            if replay.ended is not None:
                yield framing.end(replay.ended)
            if replay.ended is not None or not replay.is_whole:
                return
            if tail.head_seq is None:
                await tail.changed(within_s=KEEPALIVE_S)
        async for data in _shared(tail, place, follow, framing):
            yield data


class _Replay:
    """A log from behind the place of a follower to its present end."""

    def __init__(self, hub: Hub, follow: Follow, framing: Framing) -> None:
        self._hub = hub
        self._follow = follow
        self._framing = framing
        self.ended: WorkState | None = None
        self.is_whole = False

    async def run(self, tail: Tail, place: Place) -> AsyncIterator[bytes]:
        """Yield its items; afterwards `is_whole` tells whether all were there, `ended` how the job had ended by then."""
        after = max(place.seq, self._follow.after)
        pages = self._hub.history.pages(self._follow.job_id, after=after, size=BATCH, kinds=self._follow.kinds)
        with closing(pages):
            while not tail.is_closed:
                try:
                    page = await to_thread.run_sync(next, pages, None, limiter=self._hub.readers)
                except (*DATABASE_AWAY, WorkFailed) as error:
                    log.warning("a log cannot be read", work_id=self._follow.job_id, error=str(error))
                    return
                if page is None:
                    return
                if page.items:
                    for piece in _pieces(b"".join(self._framing.item(encode(row)) for row in page.items)):
                        yield piece
                place.seq = page.read_seq
                if page.read_seq >= page.last_seq:
                    self.is_whole = True
                    self.ended = page.state if page.state in TERMINAL else None
                    return


async def _shared(tail: Tail, place: Place, follow: Follow, framing: Framing) -> AsyncIterator[bytes]:
    spoke_at = time.monotonic()
    while not tail.is_closed and place.seq >= tail.start_seq:
        block = tail.after(place.seq)
        if block is not None:
            data = block.framed(framing, after=max(place.seq, follow.after), kinds=follow.kinds)
            place.seq = block.last_seq
            for piece in _pieces(data):
                yield piece
                spoke_at = time.monotonic()
            continue
        if tail.state in TERMINAL and place.seq == tail.head_seq:
            yield framing.end(tail.state)
            return
        silent_s = time.monotonic() - spoke_at
        if silent_s >= KEEPALIVE_S:
            yield framing.silence
            spoke_at, silent_s = time.monotonic(), 0.0
        await tail.changed(within_s=KEEPALIVE_S - silent_s)


def _pieces(data: bytes) -> Iterator[bytes]:
    """Cut what is long, because what a client does not take at once is copied for it, piece by piece."""
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]
