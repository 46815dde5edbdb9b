"""The watch of the soak can see a job that runs twice at the same time."""

import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.conftest import wait_for
from tests.soak import watch
from tests.soak.watch import Watch


@pytest.fixture
def children(tmp_path, monkeypatch):
    """Start processes that look like children of these attempts."""
    monkeypatch.setattr(watch, "CONFIRM_S", 0.3)
    with ExitStack() as stack:

        def start(*attempts):
            for attempt in attempts:
                looks = ["training.run", "--spec", f"{tmp_path}/run/staging/{attempt}/spec.json"]
                command = [sys.executable, "-c", "import time; time.sleep(60)", *looks]
                process = stack.enter_context(subprocess.Popen(command))
                stack.callback(process.kill)

        yield start


def test_two_attempts_at_one_job_that_live_at_the_same_time_are_told(children, tmp_path):
    children("job_1-1", "job_1-2", "job_2-1")
    with Watch(tmp_path) as looking:
        wait_for(lambda: looking._wrong, what="the watch")
        with pytest.raises(AssertionError, match=r"the attempts \[1, 2\] of job_1 run at the same time"):
            looking.check()


def test_attempts_at_several_jobs_are_no_fault_nor_are_processes_of_others(children, tmp_path):
    children("job_1-1", "job_2-1", "job_2-1")
    with Watch(tmp_path) as looking, Watch(tmp_path / "other") as elsewhere:
        wait_for(lambda: len(looking.seen) == 2, what="the watch")
        wait_for(lambda: not looking._together, what="another look")
        looking.check()
        assert elsewhere.seen == set()
