"""A validation in a process of its own, as a worker starts it: that one may load a base's tokenizer, and torch with it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from core.errors import FailureCode, WorkFailed
from core.events import ChildEvent, Failure, parse
from core.process import PARENT_PID_VARIABLE
from ingest.report import REPORT_FILE, Report

_OUTPUT = "output.log"


def validate_apart(spec: dict[str, Any], folder: Path, *, on_event: Callable[[ChildEvent], None]) -> Report:
    """Run `ingest.run` and return its report, whether it found the data good or not.

    Args:
        spec: What `ingest.run.Spec` takes.
        folder: An existing, empty folder.
        on_event: Called with everything that the child says.

    Raises:
        WorkFailed: There is no report: the base cannot be had, or the child died.
    """
    (folder / "spec.json").write_text(json.dumps(spec))
    failure: Failure | None = None
    with _child(folder) as (process, lines):
        for line in lines:
            event = parse(line)
            failure = event if isinstance(event, Failure) else failure
            on_event(event)
        status = process.wait()
    if (folder / REPORT_FILE).exists():
        return Report.model_validate_json((folder / REPORT_FILE).read_bytes())
    if failure is not None:
        raise WorkFailed(failure.code, failure.detail, remedy=failure.remedy, retryable=failure.retryable)
    said = (folder / _OUTPUT).read_text(errors="replace").strip().rpartition("\n")[2][:500]
    raise WorkFailed(
        FailureCode.INTERNAL,
        f"the check's process ended with status {status}{': ' * bool(said)}{said}",
        remedy="Look whether the memory suffices; if it does, report this.",
    )


@contextmanager
def _child(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Start the child, and end it whatever happens; its standard input stays open, for the end of that means stop."""
    read_end, write_end = os.pipe()
    told = ["--spec", str(folder / "spec.json"), "--staging", str(folder), "--events-fd", str(write_end)]
    with os.fdopen(read_end, "rb") as lines, (folder / _OUTPUT).open("wb") as output:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "ingest.run", *told],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(write_end,),
                start_new_session=True,  # Ctrl-C is ours
                env=os.environ | {PARENT_PID_VARIABLE: str(os.getpid())},
            )
        finally:
            os.close(write_end)
        with process:
            try:
                yield process, lines
            finally:
                process.kill()
