"""The service that the demo runs on: `lensmith up` as a process, seen through its own output."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lensmith import Client


@contextmanager
def service() -> Iterator[Client]:
    """Start `lensmith up` with the settings of the environment, yield a client of it, stop it.

    What it prints is shown. Its own word that it is up is waited for: another service may answer at the same address.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # a demo that is ended ends its service
    command = [str(Path(sys.executable).with_name("lensmith")), "up"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own command
        assert process.stdout is not None
        try:
            address = _wait(process, process.stdout)
            rest = threading.Thread(target=_show, args=(process.stdout,))
            rest.start()
            with Client(address, is_up=True) as client:
                yield client
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
        rest.join()


def _wait(process: subprocess.Popen[str], output: IO[str]) -> str:
    """Show its output until it says where it is up; one that ends first has said why."""
    for line in output:
        print(line, end="", flush=True)
        if said := re.search(r"is up at (\S+)", line):
            return said[1]
    raise SystemExit(process.wait() or 1)


def _show(output: IO[str]) -> None:
    for line in output:
        print(line, end="", flush=True)
