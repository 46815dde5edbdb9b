"""What every child process does around its work: arm, listen for `stop`, report the end.

A child gets its spec as a JSON file, writes only to its staging folder, speaks `core.events`, finds no credentials in
its environment (but the Hub's token where it reads the Hub), and dies with its supervisor.
"""

import argparse
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import FailureCode, WorkFailed
from core.events import Emitter, Failure, Hello, Result, Stopped
from core.process import die_with_parent


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
        """Raise `StopRequested` when the supervisor asked to stop."""
        if self.stop.is_set():
            raise StopRequested


def run_child(work: Callable[[Child], dict[str, Any]]) -> int:
    """Run `work` as this process and return its exit status.

    The work returns the data of its `result` event. Exit status: 0 result or stopped, 1 failure.
    """
    die_with_parent()
    arguments = _parse_arguments()
    events, stop = Emitter(arguments.events_fd), threading.Event()
    events.emit(Hello(pid=os.getpid()))
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_listen, args=(stop,), daemon=True).start()
    child = Child(spec=json.loads(arguments.spec.read_text()), staging=arguments.staging, events=events, stop=stop)
    try:
        events.emit(Result(data=work(child)))
    except StopRequested:
        events.emit(Stopped())
    except WorkFailed as failed:
        events.emit(Failure(code=failed.code, detail=failed.detail, remedy=failed.remedy, retryable=failed.retryable))
        return 1
    except Exception as error:  # noqa: BLE001 - the edge of the process: everything becomes a failure event
        traceback.print_exc()
        events.emit(_unexpected(error))
        return 1
    return 0


def _unexpected(error: Exception) -> Failure:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Failure(
            code=FailureCode.OUT_OF_MEMORY,
            detail=f"The process ran out of memory: {error}"[:2000],
            remedy="Give the worker more memory; for a job, lower hyperparameters.micro_batch_size (batch_size may stay) "
            "or image.longest_edge.",
        )
    return Failure(
        code=FailureCode.INTERNAL,
        detail=f"{type(error).__name__}: {error}"[:2000],
        remedy="Read the last lines of the job's logs; if they do not explain it, report it with the job's id.",
        retryable=True,
    )


def _listen(stop: threading.Event) -> None:
    """Wait for `{"type": "stop"}` on standard input; its end means that nobody waits for us any more."""
    for line in sys.stdin:
        if json.loads(line).get("type") == "stop":
            stop.set()
            return
    stop.set()


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run one piece of leased work; started by a worker.")
    parser.add_argument("--spec", type=Path, required=True, help="the JSON file that says what to do")
    parser.add_argument("--staging", type=Path, required=True, help="the only folder that is written to")
    parser.add_argument("--events-fd", type=int, required=True, help="the pipe for events")
    return parser.parse_args()
