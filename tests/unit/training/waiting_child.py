"""A child of two processes that wait, for tests of how they begin and end; started as `training.run` is."""

import sys

from core.child import Child, run_child
from core.errors import FailureCode, WorkFailed
from core.events import Metric
from core.process import die_with_parent, is_launched, rank


def work(child: Child):
    """Say so, and wait for a stop; the process that the spec names fails."""
    child.events.emit(Metric(data={"step": rank()}))
    if child.spec.get("fails") == rank():
        raise WorkFailed(FailureCode.BAD_DATA, f"process {rank()}", remedy="none")
    child.stop.wait()
    child.check_stop()


if __name__ == "__main__":
    if is_launched():
        sys.exit(run_child(work))
    die_with_parent()
    from training.launch import run_processes

    sys.exit(run_processes(2, module="tests.unit.training.waiting_child"))
