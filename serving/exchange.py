"""One request between the event loop and the engine: everything that can end it puts an event into one queue."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from PIL import Image

from core.errors import Problem, TimedOut, Unavailable
from serving.engine import Engine
from serving.ticket import Event, Ticket
from serving.wire import Delta, Generated, GenerateRequest


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def exchange(
    engine: Engine,
    request: GenerateRequest,
    images: tuple[Image.Image, ...],
    *,
    deadline_s: float,
    stopping: asyncio.Event,
    gone: Callable[[], Awaitable[Any]] | None = None,
) -> AsyncGenerator[Delta | Generated, None]:
    """Yield the deltas (when streaming) and then the answer.

    However it ends (answer, deadline, SIGTERM, a client that left, `aclose`), nothing is left running for it.

    Args:
        engine: Who answers.
        request: What is asked.
        images: The request's images, decoded.
        deadline_s: The longest time from now to the answer.
        stopping: Set when the process was told to stop.
        gone: Returns when the client disconnects.

    Raises:
        Problem: The request was refused, or could not be answered.
        ClientGone: `gone` returned.
    """
    loop, events = asyncio.get_running_loop(), asyncio.Queue[Event | ClientGone]()

    def deliver(event: Event) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process is on its way out
            loop.call_soon_threadsafe(events.put_nowait, event)

    async def end_with(awaited: Awaitable[Any], event: Problem | ClientGone) -> None:
        await awaited
        events.put_nowait(event)

    ticket = Ticket(request=request, images=images, deliver=deliver, submitted_at=time.perf_counter())
    engine.submit(ticket)
    late = TimedOut(f"There was no complete answer within {deadline_s:g} s.")
    watchers = [
        asyncio.create_task(end_with(asyncio.sleep(deadline_s), late)),
        asyncio.create_task(end_with(stopping.wait(), Unavailable("The serving process is stopping; try again."))),
    ]
    if gone is not None:
        watchers.append(asyncio.create_task(end_with(gone(), ClientGone())))
    try:
        while True:
            event = await events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Generated):
                return
    finally:
        ticket.cancel()
        for watcher in watchers:
            watcher.cancel()
