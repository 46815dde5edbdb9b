"""A child of ingest as its supervisor runs it: a spec, a staging folder, a pipe for events."""

import os
import subprocess
import sys

from core.events import parse


def run_child(module, spec_file, staging, *, stop=False, on_event=lambda _child, _event: None, environment=None):
    """Run a module to its end; return its exit status, its events, and what it wrote."""
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", module, "--spec", str(spec_file), "--staging", str(staging)]
    child = subprocess.Popen(
        [*command, "--events-fd", str(write_end)],
        pass_fds=[write_end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | (environment or {}),
    )
    os.close(write_end)
    if stop:
        child.stdin.write(b'{"type": "stop"}\n')
        child.stdin.flush()
    with os.fdopen(read_end, "rb") as events:
        seen = []
        for line in events:
            seen.append(parse(line))
            on_event(child, seen[-1])
    said, _ = child.communicate(timeout=60)
    return child.returncode, seen, said.decode()
