"""The queue of requests and the one thread that does all torch work.

torch is imported by that thread when the first request comes, so the process itself answers at once.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from core.errors import Busy, Problem, Unavailable
from core.logs import get_logger
from core.storage import Storage
from serving.adapters import AdapterStore
from serving.options import ServingSettings
from serving.ticket import Ticket
from serving.turns import IMPORTING, WORKING
from serving.wire import EngineState, Health

if TYPE_CHECKING:
    from serving.runner import Runner

MAX_BATCH_ROWS = 8

log = get_logger(__name__)


class Engine:
    """Takes tickets from any thread, and finishes each of them exactly once."""

    def __init__(self, settings: ServingSettings, *, on_death: Callable[[], None] | None = None) -> None:
        self._on_death = on_death
        self._settings = settings
        self._state = EngineState.IDLE
        self._loaded: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._waiting: deque[Ticket] = deque()
        self._running: tuple[Ticket, ...] = ()
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the owner thread."""
        self._thread.start()

    def close(self, *, timeout_s: float) -> None:
        """Refuse new work, end what runs at its next token, and wait this long for the thread."""
        with self._changed:
            self._is_closed = True
            waiting, running = tuple(self._waiting), self._running
            self._waiting.clear()
            self._changed.notify_all()
        _finish_all(waiting, _ended())
        for ticket in running:
            ticket.cancel()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket.

        Raises:
            Busy: The queue is full.
            Unavailable: The engine ended.
        """
        with self._changed:
            self._check_room()
            self._waiting.append(ticket)
            self._changed.notify_all()

    def check_room(self) -> None:
        """Refuse as `submit` would now, so that nothing is decoded for a request that has no place."""
        with self._changed:
            self._check_room()

    def _check_room(self) -> None:
        if self._is_closed or self._state is EngineState.DEAD:
            raise _ended()
        self._forget_cancelled()
        if len(self._waiting) >= self._settings.serving_queue:
            raise Busy(f"{len(self._waiting)} requests are waiting already; try again later.")

    def health(self) -> Health:
        """Return what the owner thread does, and what it holds."""
        with self._changed:
            bases, adapters = self._loaded
            return Health(
                status="down" if self._state is EngineState.DEAD else "up",
                engine=self._state,
                bases=bases,
                adapters=adapters,
                waiting=len(self._waiting),
                running=len(self._running),
            )

    def _run(self) -> None:
        try:
            runner = None
            while group := self._next_group():
                if runner is None:
                    self._on_loading()
                    with IMPORTING:
                        runner = self._make_runner()
                self._serve(runner, group)
        except BaseException:  # the edge of the thread: whatever it was, the callers must hear of it
            log.exception("engine died")
        finally:
            self._die()

    def _make_runner(self) -> "Runner":
        """Import torch and all that stands on it; takes seconds."""
        import torch

        from serving.bases import Bases
        from serving.runner import Runner

        torch.seed()  # torch starts from a constant, and unseeded requests would repeat after a restart
        settings = self._settings
        bases = Bases(
            models_dir=settings.layout.models,
            adapters=AdapterStore(Storage.from_url(settings.resolved_storage_url), settings.layout.adapters),
            quantization=settings.serving_quantization,
            dtype=settings.serving_dtype,
            max_bases=settings.serving_bases,
            max_adapters=settings.serving_adapters,
        )
        return Runner(bases, on_loading=self._on_loading)

    def _serve(self, runner: "Runner", group: tuple[Ticket, ...]) -> None:
        from serving.runner import is_fatal

        try:
            with WORKING:
                runner.answer(group)
        except Exception as error:  # the edge: one group's trouble is not the next one's
            log.exception("group failed", rows=len(group))
            _finish_all(group, Problem("Something broke while this request was served; the log says what."))
            if is_fatal(error):
                raise
        finally:
            _finish_all(group, _ended())  # only who was cancelled is not finished yet
            with self._changed:
                self._running = ()
                self._loaded = (runner.bases.names(), runner.bases.adapters())
                self._state = EngineState.READY if runner.bases.names() else EngineState.IDLE

    def _next_group(self) -> tuple[Ticket, ...]:
        """Wait for work and return the oldest ticket with those that may join its batch; empty means: end."""
        with self._changed:
            self._forget_cancelled()
            while not self._waiting and not self._is_closed:
                self._changed.wait()
                self._forget_cancelled()
            if self._is_closed:
                return ()
            key = self._waiting[0].batch_key
            group = tuple(ticket for ticket in self._waiting if ticket.batch_key == key)[:MAX_BATCH_ROWS]
            self._waiting = deque(ticket for ticket in self._waiting if ticket not in group)
            self._running = group
            return group

    def _forget_cancelled(self) -> None:
        self._waiting = deque(ticket for ticket in self._waiting if not ticket.is_cancelled)

    def _on_loading(self) -> None:
        with self._changed:
            self._state = EngineState.LOADING

    def _die(self) -> None:
        with self._changed:
            self._state = EngineState.DEAD
            tickets = (*self._running, *self._waiting)
            self._running = ()
            self._waiting.clear()
            was_asked = self._is_closed
        _finish_all(tickets, _ended())
        if self._on_death is not None and not was_asked:
            self._on_death()


def _finish_all(tickets: Iterable[Ticket], problem: Problem) -> None:
    for ticket in tickets:
        ticket.finish(problem)


def _ended() -> Unavailable:
    return Unavailable("The serving engine has ended; it answers again after a restart of the serving process.")
