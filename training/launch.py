"""Several processes for one run: torchrun around `training.run`, on this machine only.

The launcher is the child that the worker started. Its processes open its pipe for events, hear `stop` through its
standard input, and die with it, as it dies with the worker.
"""

import os
import signal
import sys
import uuid

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from core.process import PARENT_PID_VARIABLE

SHUTDOWN_S = 10  # for the others, once one has failed; the worker's own patience with a child that failed is longer
_LOOK_S = 0.1
_LOOPBACK = "127.0.0.1"


def run_processes(num_processes: int, *, module: str) -> int:
    """Run a module, with our own arguments, as `num_processes` processes and return the exit status.

    A process that was killed by a signal ends this one in the same way, so that the worker can tell why: SIGKILL is what
    the system does when memory is short.
    """
    os.environ[PARENT_PID_VARIABLE] = str(os.getpid())
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else gloo asks the resolver for this machine's name
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // num_processes)))
    config = LaunchConfig(  # what `torchrun --standalone --nproc-per-node N` makes
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=f"{_LOOPBACK}:0",
        local_addr=_LOOPBACK,
        max_restarts=0,
        monitor_interval=_LOOK_S,
        shutdown_timeout=SHUTDOWN_S,
    )
    try:
        elastic_launch(config, entrypoint=sys.executable)("-u", "-m", module, *sys.argv[1:])
    except ChildFailedError as error:
        return _status(list(error.failures.values()))
    except SignalException:  # we were told to end, and have passed it on
        return 1
    return 0


def _status(failures: list[ProcessFailure]) -> int:
    """Return the status of what went wrong first: a process that a signal killed said nothing, and broke the others."""
    killed = [failure.exitcode for failure in failures if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM]
    if not killed:
        return 1
    signum = signal.Signals(-killed[0])
    if signum is not signal.SIGKILL:
        signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    return 1
