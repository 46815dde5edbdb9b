"""One request on its way through the engine: what is asked, and where its events go."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image

from core.errors import Problem
from serving.wire import Delta, Generated, GenerateRequest

Event = Delta | Generated | Problem


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """A request that waits or runs. Its last event is `Generated` or a `Problem`; deltas come only when streaming.

    Attributes:
        request: What is asked.
        images: The request's images, decoded.
        deliver: Takes an event from the owner thread to whoever waits; must not block.
        submitted_at: On `time.perf_counter`'s clock.
    """

    request: GenerateRequest
    images: tuple[Image.Image, ...]
    deliver: Callable[[Event], None]
    submitted_at: float
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _finished: bool = False

    def cancel(self) -> None:
        """Say that nobody waits for the answer any more; callable from any thread."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Tell whether nobody waits any more."""
        return self._cancelled.is_set()

    def stream(self, text: str) -> None:
        """Deliver a piece of text."""
        self.deliver(Delta(delta=text))

    def finish(self, outcome: Generated | Problem) -> None:
        """Deliver the last event; only the first call counts."""
        if not self._finished:
            self._finished = True
            self.deliver(outcome)

    @property
    def batch_key(self) -> tuple[object, ...]:
        """Return what requests must share to run in one batch; a seeded request shares with none."""
        sampling = self.request.sampling
        if sampling.temperature == 0:
            shape: tuple[object, ...] = ("greedy",)
        elif sampling.seed is None:
            shape = (sampling.temperature, sampling.top_p)
        else:
            shape = (id(self),)
        return (self.request.base, self.request.adapter, *shape)
