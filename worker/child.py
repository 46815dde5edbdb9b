"""A child process as its supervisor sees it: start, events, output, stop in three steps, certainly gone at the end."""

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from core import events
from core.events import Alive, ChildEvent, Log
from core.process import PARENT_PID_VARIABLE, signal_group

# What a child may not know: it speaks to its supervisor only. The rest of the environment steers libraries, and stays.
_OURS = ("AWS_", "AZURE_", "GOOGLE_", "LENSMITH_")
_OF_THE_HUB = ("HF_", "HUGGING_FACE_")
_SECRET = re.compile(r"(?:^|_)(?:CREDENTIALS?|KEY|SECRET|TOKEN)(?:_|$)|PASSWORD", re.IGNORECASE)
_OF_A_LAUNCHER = frozenset(
    {"RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"}
)  # a child is the first, or alone
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
_LINE_CHARS = 4000
_LINE_BYTES = 1024 * 1024
_BATCH_EVENTS = 1000  # more wait in the pipe, and so hold the child, not a transaction


@dataclass(slots=True)
class _Lines:
    """Bytes of a pipe, cut into lines."""

    rest: bytes = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        *whole, self.rest = (self.rest + chunk).split(b"\n")
        if len(self.rest) > _LINE_BYTES:  # a progress bar that never ends its line
            whole.append(self.rest)
            self.rest = b""
        return whole


@dataclass(slots=True)
class Stopping:
    """The three steps of a stop: ask on standard input, SIGTERM, SIGKILL; each once, each after its time.

    A pause waits `pause_s` for an answer, in place of `ask_s`: nobody is in a hurry, and what is saved is not lost.
    """

    ask_s: float
    term_s: float
    pause_s: float = 0.0
    asked_at: float | None = None
    sent: set[str] = field(default_factory=set)

    def step(self, process: "ChildProcess", *, pausing: bool = False) -> None:
        """Take the step that is due."""
        ask_s = max(self.ask_s, self.pause_s) if pausing else self.ask_s
        if self.asked_at is None:
            self.asked_at = time.monotonic()
        waited = time.monotonic() - self.asked_at
        for name, due_s, act in (
            ("ask", 0.0, process.ask_to_stop),
            ("term", ask_s, process.terminate),
            ("kill", ask_s + self.term_s, process.kill),
        ):
            if waited >= due_s and name not in self.sent:
                self.sent.add(name)
                act()


class ChildProcess:
    """`python -m MODULE` in its own process group, with a pipe for events and one for its output.

    Start it from a thread that lives as long as the child: the kernel's parent-death signal follows the thread.
    Its environment holds no secret, but the token of the Hub `with_hub_token`.
    """

    def __init__(
        self,
        module: str,
        *,
        spec: dict[str, Any],
        staging: Path,
        with_hub_token: bool = False,
        lease_until: float | None = None,
    ) -> None:
        spec_file = staging / "spec.json"
        spec_file.write_text(json.dumps(spec))
        environment = {k: v for k, v in os.environ.items() if not _is_secret(k, with_hub_token=with_hub_token)}
        command = [sys.executable, "-m", module, "--spec", str(spec_file), "--staging", str(staging)]
        if lease_until is not None:
            command += ["--lease-until", str(lease_until)]
        self._events_fd, child_fd = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*command, "--events-fd", str(child_fd)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(child_fd,),
                start_new_session=True,
                env=environment | _QUIET | {PARENT_PID_VARIABLE: str(os.getpid())},
            )
        except OSError:
            os.close(self._events_fd)
            raise
        finally:
            os.close(child_fd)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)  # a child that does not listen must not hold us
        self.heard_at = time.monotonic()  # when it last said anything

    @property
    def pid(self) -> int:
        """Return the child's process id, which is its group's as well."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._process.wait()
        os.close(self._events_fd)
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._process.stdout.close()
        with suppress(BrokenPipeError):  # what we asked last was never read
            self._process.stdin.close()

    def wait(self) -> int:
        """Wait for the end; return the exit status, negative for a signal."""
        return self._process.wait()

    def ask_to_stop(self) -> None:
        """Ask for a stop; the child saves what it can."""
        self._tell({"type": "stop"})

    def prolong(self, until: float) -> None:
        """Let the child live until then (monotonic clock), and no longer unless it is told again."""
        self._tell({"type": "lease", "until": until})

    def _tell(self, message: dict[str, Any]) -> None:
        """Write one line, which is short enough to be written whole or not at all."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, BlockingIOError, ValueError):  # it is gone, or does not listen
            os.write(self._process.stdin.fileno(), json.dumps(message).encode() + b"\n")

    def terminate(self) -> None:
        """Send SIGTERM to the whole group."""
        signal_group(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the whole group."""
        signal_group(self.pid, signal.SIGKILL)

    def batches(self, *, every_s: float) -> Iterator[list[ChildEvent]]:
        """Yield what the child said, in batches, at least every `every_s` (perhaps empty), until it has ended.

        Its pipes may stay open longer than it lives, in the hands of a process that it started.
        """
        assert self._process.stdout is not None
        buffers = {self._events_fd: _Lines(), self._process.stdout.fileno(): _Lines()}
        with selectors.DefaultSelector() as selector:
            for fd in buffers:
                os.set_blocking(fd, False)
                selector.register(fd, selectors.EVENT_READ)
            while selector.get_map():
                has_ended = self._process.poll() is not None  # before the read: what it said last is read after it
                batch = self._read_for(every_s, selector, buffers)
                if batch:
                    self.heard_at = time.monotonic()
                yield [event for event in batch if not isinstance(event, Alive)]
                if has_ended and not batch:
                    return

    def _read_for(
        self, every_s: float, selector: selectors.BaseSelector, buffers: dict[int, _Lines]
    ) -> list[ChildEvent]:
        batch: list[ChildEvent] = []
        deadline = time.monotonic() + every_s
        while selector.get_map() and len(batch) < _BATCH_EVENTS and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fd)
                lines = buffers[key.fd].feed(chunk or b"\n")
                batch.extend(self._parse(key.fd, line) for line in lines if line.strip())
        return batch

    def _parse(self, fd: int, line: bytes) -> ChildEvent:
        text = line.decode("utf-8", "replace")
        if fd != self._events_fd:
            text = text.rstrip("\r").rpartition("\r")[2]  # of a progress bar, what a terminal would show
            return Log(level="debug", message=text[:_LINE_CHARS], data={"stream": "output"})
        try:
            return events.parse(line)
        except ValidationError as error:
            return Log(
                level="error", message=f"not an event: {text[:_LINE_CHARS]}", data={"error": str(error)[:_LINE_CHARS]}
            )


def _is_secret(name: str, *, with_hub_token: bool) -> bool:
    if name in _OF_A_LAUNCHER:
        return True
    if name.startswith(_OF_THE_HUB) and with_hub_token:
        return False
    return name.startswith(_OURS) or _SECRET.search(name) is not None
