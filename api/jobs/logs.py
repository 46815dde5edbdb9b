"""Following a log: replay from SQL, then look again; the same items as SSE or as JSON lines."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from api.jobs.schemas import LogItem, read_item
from core.db import Database
from models import event
from models import job as jobs
from models.states import TERMINAL, EventKind, WorkState

TICK_S = 0.5
KEEPALIVE_S = 15.0
BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """Whose log, from where on, and what of it."""

    job_id: str
    project: str
    after: int
    kinds: frozenset[EventKind] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How items, silence and the end look on the wire."""

    item: Callable[[LogItem], bytes]
    silence: bytes
    end: Callable[[WorkState], bytes]


SSE = Framing(
    item=lambda item: format_sse_event(id=str(item.seq), event=item.kind.value, data_str=item.model_dump_json()),
    silence=KEEPALIVE_COMMENT,
    end=lambda state: format_sse_event(event="end", data_str=json.dumps({"state": state})),
)
NDJSON = Framing(item=lambda item: item.model_dump_json().encode() + b"\n", silence=b"\n", end=lambda _state: b"")


async def stream(request: Request, database: Database, follow: Follow, framing: Framing) -> AsyncIterator[bytes]:
    """Yield a job's log until the job has ended, the client left, or the server stops.

    No session is open between two looks. When the server stops, the stream closes without `end`, so that a client comes
    back with `Last-Event-ID`.
    """
    stopping: asyncio.Event = request.app.state.stopping
    after, spoke_at = follow.after, time.monotonic()
    while not stopping.is_set():
        state, items = await run_in_threadpool(_look, database, follow, after)
        for item in items:
            yield framing.item(item)
        if items:
            after, spoke_at = items[-1].seq, time.monotonic()
            if len(items) == BATCH:
                continue
        if state is None:
            return
        if state in TERMINAL:
            yield framing.end(state)
            return
        if time.monotonic() - spoke_at >= KEEPALIVE_S:
            spoke_at = time.monotonic()
            yield framing.silence
        await _sleep(stopping, TICK_S)


def _look(database: Database, follow: Follow, after: int) -> tuple[WorkState | None, list[LogItem]]:
    """Read the state before the items: an end is committed with its last item, so a seen end has all of them."""
    with database.read() as session:
        found = jobs.get(session, follow.job_id, project=follow.project)
        state = found[1].state if found else None
    with database.read() as session:
        rows = event.page(session, follow.job_id, after=after, limit=BATCH, kinds=follow.kinds)
    return state, [read_item(row) for row in rows]


async def _sleep(stopping: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stopping.wait(), seconds)
    except TimeoutError:
        return
