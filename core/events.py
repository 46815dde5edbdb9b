"""The protocol between a child process and its supervisor: one JSON object per line, typed and versioned.

child -> supervisor, on a pipe of its own: `hello` first, then any of the others, at the end `result` or `failure`.
supervisor -> child, on standard input: `lease` (`until`, on the machine's monotonic clock: the child may not live longer
without another one) and `stop`. End of input means that the supervisor is gone.

A number that is not finite becomes `null` on the way, because JSON has no NaN.
"""

import math
import os
import threading
import time
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from core.errors import FailureCode

PROTOCOL_VERSION = 4
SILENCE_S = 10.0  # after which a child says that it goes on


class Phase(StrEnum):
    """What a running piece of work is doing; the changing detail beside its state."""

    LOADING = "loading"
    PREPARING = "preparing"
    TRAINING = "training"
    EVALUATING = "evaluating"
    PUBLISHING = "publishing"


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hello(_Event):
    """The child lives and speaks this version of the protocol."""

    type: Literal["hello"] = "hello"
    protocol: int = PROTOCOL_VERSION
    pid: int


class PhaseChanged(_Event):
    """The work entered another phase."""

    type: Literal["phase"] = "phase"
    phase: Phase


class Progress(_Event):
    """How far the work is, for work without metrics (validation): rows done of all."""

    type: Literal["progress"] = "progress"
    step: int
    total_steps: int | None = None


class Metric(_Event):
    """The figures of one step: `step, total_steps, epoch, loss, learning_rate, grad_norm, examples_per_s, eta_s, ...`."""

    type: Literal["metric"] = "metric"
    data: dict[str, float | int | None]


class Log(_Event):
    """A line for people."""

    type: Literal["log"] = "log"
    level: Literal["debug", "info", "warning", "error"] = "info"
    message: str
    data: dict[str, Any] | None = None


class Sample(_Event):
    """One generated answer beside its reference."""

    type: Literal["sample"] = "sample"
    data: dict[str, Any]


class Checkpoint(_Event):
    """A checkpoint lies whole in the staging folder; the next attempt can go on from it.

    Attributes:
        step: The last step that it holds.
        path: Of its folder, relative to the staging folder. It is removed when newer ones are there.
        sha256: Of its manifest.
        size_bytes: Of its files together.
    """

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    path: str
    sha256: str
    size_bytes: int


class Resolved(_Event):
    """The settings that `auto` came to, and where everything came from (revision, digests, versions, seed)."""

    type: Literal["resolved"] = "resolved"
    settings: dict[str, Any]
    provenance: dict[str, Any]


class Planned(_Event):
    """What the work will hold in memory, phase by phase."""

    type: Literal["planned"] = "planned"
    plan: dict[str, Any]


class Limited(_Event):
    """Memory did not do, and the work goes on with less at once; `limit` says how much, for work like this to begin with."""

    type: Literal["limited"] = "limited"
    limit: dict[str, Any]


class Result(_Event):
    """The work succeeded; its files lie in the staging folder under the names that the kind of work fixes."""

    type: Literal["result"] = "result"
    data: dict[str, Any]


class Failure(_Event):
    """The work failed."""

    type: Literal["failure"] = "failure"
    code: FailureCode
    detail: str
    remedy: str
    retryable: bool = False


class Alive(_Event):
    """The child goes on with what it is at; said when there was nothing else to say for a while."""

    type: Literal["alive"] = "alive"


class Stopped(_Event):
    """The child stopped because it was asked to; nothing failed."""

    type: Literal["stopped"] = "stopped"


ChildEvent = Annotated[
    Hello
    | Alive
    | PhaseChanged
    | Progress
    | Metric
    | Log
    | Sample
    | Checkpoint
    | Resolved
    | Planned
    | Limited
    | Result
    | Failure
    | Stopped,
    Field(discriminator="type"),
]
_CHILD_EVENT: TypeAdapter[ChildEvent] = TypeAdapter(ChildEvent)


def parse(line: bytes) -> ChildEvent:
    """Parse one line of the child; raises `pydantic.ValidationError` on anything else."""
    return _CHILD_EVENT.validate_json(line)


class Emitter:
    """Writes events to a file descriptor, whole lines, from any thread.

    Of several processes of one piece of work the first speaks; of the others only failures are heard.
    """

    def __init__(self, fd: int, *, failures_only: bool = False) -> None:
        self._fd = fd
        self._failures_only = failures_only
        self._lock = threading.Lock()
        self._said_at = time.monotonic()

    def emit(self, event: ChildEvent) -> None:
        """Write one event."""
        if self._failures_only and not isinstance(event, Failure):
            return
        line = _CHILD_EVENT.dump_json(_finite(event), exclude_none=False) + b"\n"
        with self._lock:
            view = memoryview(line)
            while view:
                view = view[os.write(self._fd, view) :]
        self._said_at = time.monotonic()

    def alive(self) -> None:
        """Say that the work goes on, if it has been silent for long."""
        if time.monotonic() - self._said_at > SILENCE_S:
            self.emit(Alive())

    def log(self, message: str, *, level: Literal["debug", "info", "warning", "error"] = "info", **data: Any) -> None:
        """Write a line for people."""
        self.emit(Log(level=level, message=message, data=data or None))


def _finite(event: ChildEvent) -> ChildEvent:
    if not isinstance(event, Metric):
        return event
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in event.data.items()}
    return event.model_copy(update={"data": clean})
