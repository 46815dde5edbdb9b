"""A process for each run, started afresh.

Forking one that has imported the libraries would save seconds of each start, and spoil the peaks: a fork does not count the
pages of libraries that its parent had read, until it reads them itself.
"""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


def alone(work: Callable[..., _T], *arguments: object) -> _T:
    """Return what the work returns in a process that does nothing else and then ends.

    Raises:
        BrokenProcessPool: The process was killed, most likely for memory.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_hush) as pool:
        return pool.submit(work, *arguments).result()


def _hush() -> None:
    """Keep the bars and the hints of the libraries out of the table."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
