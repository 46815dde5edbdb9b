"""What every child process does around its work: arm, listen for `stop`, report the end.

A child lives no longer than its supervisor's lease (`Tether`). It gets its spec as a JSON file, writes only to its staging folder, speaks `core.events`, finds no credentials in
its environment (but the Hub's token where it reads the Hub), and dies with its supervisor.

A piece of work may be done by several such processes (`training.launch`). The first hears `stop`, and the work tells the
others; each dies with the launcher, and one that leaves before the end takes the others with it.
"""

import argparse
import json
import math
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import FailureCode, WorkFailed
from core.events import Emitter, Failure, Hello, Result, Stopped
from core.out_of_memory import is_out_of_memory
from core.process import die_with_parent, is_launched, rank

_TETHER_S = 0.5  # between two looks at the end of the lease

# How gloo says that the process at the other end of a connection has died.
_LOST_PEER = re.compile(r"Connection (?:closed|reset) by peer|Broken pipe")


class StopRequested(Exception):
    """The supervisor asked the work to stop; raised by work that noticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What the work of a child gets to see."""

    spec: dict[str, Any]
    staging: Path
    events: Emitter
    stop: threading.Event

    def check_stop(self) -> None:
        """Raise `StopRequested` when the supervisor asked to stop. Ask often: who asks is known to go on."""
        self.events.alive()
        if self.stop.is_set():
            raise StopRequested


def run_child(work: Callable[[Child], dict[str, Any]]) -> int:
    """Run `work` as this process and return its exit status.

    The work returns the data of its `result` event. Exit status: 0 result or stopped, 1 failure; of several processes
    one that stopped returns 1 as well, because torchrun lets the others wait for one that returned 0.
    """
    die_with_parent()
    arguments = parse_arguments()
    events, stop = Emitter(_events_fd(arguments.events_fd), failures_only=rank() > 0), threading.Event()
    events.emit(Hello(pid=os.getpid()))
    signal.signal(signal.SIGTERM, lambda *_: _hear_sigterm(stop))
    if rank() == 0:  # one line is read by one process
        tether = Tether(arguments.lease_until)
        threading.Thread(target=_listen, args=(stop, tether), daemon=True).start()
        threading.Thread(target=tether.watch, daemon=True).start()
    child = Child(spec=json.loads(arguments.spec.read_text()), staging=arguments.staging, events=events, stop=stop)
    try:
        events.emit(Result(data=work(child)))
    except StopRequested:
        events.emit(Stopped())
        return int(is_launched())
    except WorkFailed as failed:
        events.emit(Failure(code=failed.code, detail=failed.detail, remedy=failed.remedy, retryable=failed.retryable))
        return 1
    except Exception as error:  # noqa: BLE001 - the edge of the process: everything becomes a failure event
        traceback.print_exc()
        if not _is_because_of_another(error):
            events.emit(_unexpected(error))
        return 1
    return 0


def _hear_sigterm(stop: threading.Event) -> None:
    """Stop; of several processes leave without a word when nobody asked: torchrun says that another one has failed.

    A supervisor asks first, and the others wait for what the first one makes of it.
    """
    if not is_launched():
        stop.set()
    elif rank() == 0 and not stop.is_set():
        os._exit(1)


def parse_arguments() -> argparse.Namespace:
    """Return what every child is started with: `spec`, `staging`, `events_fd`."""
    parser = argparse.ArgumentParser(description="Run one piece of leased work; started by a worker.")
    parser.add_argument("--spec", type=Path, required=True, help="the JSON file that says what to do")
    parser.add_argument("--staging", type=Path, required=True, help="the only folder that is written to")
    parser.add_argument("--events-fd", type=int, required=True, help="the pipe for events")
    parser.add_argument("--lease-until", type=float, help="when the lease ends, on the monotonic clock; none: never")
    return parser.parse_args()


def _events_fd(number: int) -> int:
    """Return the pipe for events; torchrun closes it for the processes that it starts, and keeps it open itself."""
    return os.open(f"/proc/{os.getppid()}/fd/{number}", os.O_WRONLY) if is_launched() else number


def _is_because_of_another(error: Exception) -> bool:
    """Tell whether the work broke because another of its processes is gone; that one has said why, or its status does."""
    return is_launched() and (type(error).__name__.startswith("Dist") or _LOST_PEER.search(str(error)) is not None)


def _unexpected(error: Exception) -> Failure:
    if is_out_of_memory(error):
        return Failure(
            code=FailureCode.OUT_OF_MEMORY,
            detail=f"The process ran out of memory: {error}"[:2000],
            remedy="Give the worker more memory; for a job, lower hyperparameters.micro_batch_tokens (batch_size may "
            "stay) or image.longest_edge.",
            retryable=True,
        )
    return Failure(
        code=FailureCode.INTERNAL,
        detail=f"{type(error).__name__}: {error}"[:2000],
        remedy="Read the last lines of the job's logs; if they do not explain it, report it with the job's id.",
        retryable=True,
    )


class Tether:
    """The end of the lease, as the supervisor last told it: this process and its group do not outlive it.

    A supervisor that is frozen cannot kill its child, while another worker begins the same work; and one whose lease is
    not prolonged sends nothing.
    """

    def __init__(self, until: float | None) -> None:
        self._until = math.inf if until is None else until

    def hold(self, until: float) -> None:
        """Live until then."""
        self._until = until

    def watch(self) -> None:
        """Kill the group of this process when the lease is over."""
        while (left := self._until - time.monotonic()) > 0:
            time.sleep(min(left, _TETHER_S))
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _listen(stop: threading.Event, tether: Tether) -> None:
    """Hear the supervisor on standard input until its end, which means that nobody waits for us any more."""
    for line in sys.stdin:
        said = json.loads(line)
        if said["type"] == "stop":
            stop.set()
        elif said["type"] == "lease":
            tether.hold(said["until"])
    stop.set()
