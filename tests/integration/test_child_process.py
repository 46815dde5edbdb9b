"""A child process and who supervises it: what it says, how it is stopped, and that it outlives nobody."""

import signal
import subprocess
import sys
import time

from tests.conftest import wait_for
from tests.integration.played_child import put_module
from tests.processes import is_alive
from worker.child import ChildProcess, Stopping

BABBLER = """
import os, sys
fd = int(sys.argv[sys.argv.index('--events-fd') + 1])
os.write(fd, b'not json\\n{"type": "hello"')
"""


def test_a_child_dies_when_its_supervisor_is_killed(tmp_path, monkeypatch):
    put_module(monkeypatch, tmp_path, "played_child")
    code = f"""
import time, pathlib
from worker.child import ChildProcess
folder = pathlib.Path({str(tmp_path)!r})
process = ChildProcess("played_child", spec={{"mode": "stubborn"}}, staging=folder)
for batch in process.batches(every_s=0.1):
    for event in batch:
        if event.type == "log" and event.message == "pid": print(event.data["pid"], flush=True)
"""
    supervisor = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(supervisor.stdout.readline())
    assert is_alive(pid)
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    supervisor.stdout.close()
    wait_for(lambda: not is_alive(pid), what="the end of the child")


class Steps:
    """Counts the steps of a stop."""

    def __init__(self):
        self.steps = []

    def ask_to_stop(self):
        self.steps.append("ask")

    def terminate(self):
        self.steps.append("term")

    def kill(self):
        self.steps.append("kill")


def test_a_child_does_not_outlive_the_lease_of_a_supervisor_that_is_frozen(tmp_path, monkeypatch):
    """A frozen supervisor can neither prolong its lease nor kill its child, and another worker begins the same work."""
    put_module(monkeypatch, tmp_path, "played_child")
    lease_until = time.monotonic() + 3
    with ChildProcess("played_child", spec={"mode": "stubborn"}, staging=tmp_path, lease_until=lease_until) as process:
        said = process.batches(every_s=0.1)
        wait_for(lambda: any(e.type == "log" and e.message == "pid" for e in next(said)), what="the child")
        process.prolong(lease_until + 2)
        wait_for(lambda: time.monotonic() > lease_until + 0.5, what="the first end")
        assert is_alive(process.pid), "it was prolonged"
        assert process.wait() == -signal.SIGKILL
        assert time.monotonic() > lease_until + 2


def test_a_stop_takes_its_three_steps_in_order_each_once():
    process, stopping = Steps(), Stopping(ask_s=0, term_s=0)
    for _ in range(3):
        stopping.step(process)
    assert process.steps == ["ask", "term", "kill"]
    patient, stopping = Steps(), Stopping(ask_s=100, term_s=100)
    stopping.step(patient)
    stopping.step(patient)
    assert patient.steps == ["ask"]


def test_a_pause_waits_longer_for_an_answer_than_a_stop():
    process, stopping = Steps(), Stopping(ask_s=0, term_s=100, pause_s=100)
    stopping.step(process, pausing=True)
    assert process.steps == ["ask"]
    stopping.step(process)
    assert process.steps == ["ask", "term"], "the worker is told to stop while it pauses"


def test_a_line_that_is_no_event_becomes_a_log_line_and_breaks_nothing(tmp_path, monkeypatch):
    put_module(monkeypatch, tmp_path, "babbler", BABBLER)
    with ChildProcess("babbler", spec={}, staging=tmp_path) as process:
        said = [e for batch in process.batches(every_s=0.1) for e in batch]
    assert [e.level for e in said] == ["error", "error"]


FLOOD = """
import os, sys, subprocess
fd = int(sys.argv[sys.argv.index("--events-fd") + 1])
mode = __import__("json").load(open(sys.argv[sys.argv.index("--spec") + 1]))["mode"]
if mode == "endless line":
    sys.stdout.write("x" * 3_000_000)
elif mode == "flood":
    for n in range(5000): print(str(n) * 20)  # more than a pipe holds, so that no single read has all of it
elif mode == "grandchild":
    left = subprocess.Popen(["sleep", "600"], pass_fds=(fd,))
    os.write(fd, b'{"type": "result", "data": {"pid": %d}}\\n' % left.pid)
"""


def said_by_flood(tmp_path, monkeypatch, mode):
    put_module(monkeypatch, tmp_path, "flood", FLOOD)
    with ChildProcess("flood", spec={"mode": mode}, staging=tmp_path) as process:
        return list(process.batches(every_s=0.1))


def test_a_line_that_never_ends_is_cut_and_not_kept_whole(tmp_path, monkeypatch):
    said = [event for batch in said_by_flood(tmp_path, monkeypatch, "endless line") for event in batch]
    assert 3 <= len(said) <= 4
    assert all(len(event.message) <= 4000 for event in said)


def test_a_flood_of_output_comes_in_batches_of_a_bounded_size(tmp_path, monkeypatch):
    batches = said_by_flood(tmp_path, monkeypatch, "flood")
    assert sum(map(len, batches)) == 5000
    assert max(map(len, batches)) < 5000


def test_a_process_that_the_child_left_behind_holds_nothing_up_and_is_killed(tmp_path, monkeypatch):
    said = [event for batch in said_by_flood(tmp_path, monkeypatch, "grandchild") for event in batch]
    (result,) = said
    wait_for(lambda: not is_alive(result.data["pid"]), what="the end of what the child left behind")


LAST_WORD = """
import os, sys, time
fd = int(sys.argv[sys.argv.index("--events-fd") + 1])
folder = os.path.dirname(sys.argv[sys.argv.index("--spec") + 1])
while not os.path.exists(folder + "/go"): time.sleep(0.01)
os.write(fd, b'{"type": "result", "data": {"said": "at last"}}\\n')
"""


def test_what_a_child_says_while_nobody_listens_and_ends_is_heard(tmp_path, monkeypatch):
    """The supervisor was writing to a database that hung; the child ended meanwhile, and its result was never read."""
    put_module(monkeypatch, tmp_path, "last_word", LAST_WORD)
    said = []
    with ChildProcess("last_word", spec={}, staging=tmp_path) as process:
        for batch in process.batches(every_s=0.05):
            said += batch
            if not batch and not (tmp_path / "go").exists():
                (tmp_path / "go").touch()
                process.wait()
    assert [event.data for event in said] == [{"said": "at last"}]
