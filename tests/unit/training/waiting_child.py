"""A child of two processes that wait, for tests of how they begin and end; started as `training.run` is."""

import sys
import time

from core.child import Child, run_child
from core.errors import FailureCode, WorkFailed
from core.events import Metric
from core.process import die_with_parent, is_launched, rank


def work(child: Child):
    """Say so, and wait for a stop; the process that the spec names fails, when the first has spoken."""
    child.events.emit(Metric(data={"step": rank()}))
    spoken = child.staging / "spoken"
    if rank() == 0:
        spoken.touch()
    if child.spec.get("fails") == rank():
        while not spoken.exists():  # else it may take the first along before that has said a word
            time.sleep(0.01)
        raise WorkFailed(FailureCode.BAD_DATA, f"process {rank()}", remedy="none")
    child.stop.wait()
    child.check_stop()


if __name__ == "__main__":
    if is_launched():
        sys.exit(run_child(work))
    die_with_parent()
    from training.launch import run_processes

    sys.exit(run_processes(2, module="tests.unit.training.waiting_child"))
