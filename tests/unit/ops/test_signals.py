"""The wish to stop: a signal that lands inside of a wait neither hangs nor is lost."""

import subprocess
import sys

HAIL = """
import os, signal, threading, time
from ops.signals import stop_on_signals

stop = stop_on_signals()
print(stop.is_set(), flush=True)
def hail():
    for _ in range(100_000):  # more than a pipe holds
        os.kill(os.getpid(), signal.SIGTERM)
thread = threading.Thread(target=hail)
thread.start()
while thread.is_alive():
    stop.wait(0.001)
print(stop.is_set(), stop.wait(10), flush=True)
"""


def test_a_hail_of_signals_while_it_waits_sets_it_for_good():
    """With a `threading.Event` this hung within seconds: the handler wants the lock that the waiting thread holds."""
    done = subprocess.run([sys.executable, "-c", HAIL], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["False", "True", "True"]), done.stderr
