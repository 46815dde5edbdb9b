"""A child whose spec says how it behaves, as text: a test puts it where a worker finds it."""

import os
from pathlib import Path

CHILD = """
import json, os, signal, sys, time
from core import events
from core.child import Child, run_child
from core.errors import WorkFailed
from core.events import Failure, Hello, Metric, Log

def work(child: Child):
    child.events.log("environment", **{k: v for k, v in os.environ.items() if v == "secret"})
    print("a line of a library")
    if child.spec["mode"] == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child.events.log("pid", pid=os.getpid())
        while True: time.sleep(0.01)
    if child.spec["mode"] == "polite":
        child.events.log("pid", pid=os.getpid())
        child.stop.wait()
        child.check_stop()
    if child.spec["mode"] == "hung":
        time.sleep(3600)
    if child.spec["mode"] == "slow":  # longer than it may be silent, and at work all the time
        events.SILENCE_S, began = 0.2, time.monotonic()
        while time.monotonic() - began < 3:
            child.check_stop()
            time.sleep(0.05)
    if child.spec["mode"] == "silent":
        os._exit(3)
    if child.spec["mode"] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if child.spec["mode"] == "stranger":
        child.events.emit(Hello(pid=1, protocol=99))
        child.stop.wait()
    if child.spec["mode"] == "breaking":  # as the processes of one run do, one after the other
        for code in ("bad_data", "internal"):
            child.events.emit(Failure(code=code, detail=code, remedy="none"))
        os._exit(1)
    if child.spec["mode"] == "no storage":
        raise WorkFailed("storage", "no room", remedy="make room", retryable=True)
    if child.spec["mode"] == "late":
        child.events.log("pid", pid=os.getpid())
        child.stop.wait()
        return {}
    if child.spec["mode"] == "aborted":
        os.abort()
    child.events.emit(Metric(data={"step": 1, "loss": float("nan")}))
    return {"answer": 42}

sys.exit(run_child(work))
"""


def put_module(monkeypatch, folder, name, text=CHILD):
    """Let children find a module of the test's own."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(Path.cwd())]))
