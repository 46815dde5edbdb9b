"""The threads of a validation: a few that decode, for Pillow lets go of the interpreter, and a few that wait for servers."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

_MAX_DECODING = 8  # at once; an image of 25 million pixels that must be turned takes 150 MB
_MAX_FETCHING = 8
_WORTH_A_THREAD_BYTES = 32 * 1024  # below, two threads took longer than one: they wait for the interpreter
_PER_THREAD = 2  # images begun for each thread, so that it finds the next when it is done

P = ParamSpec("P")
T = TypeVar("T")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


class Threads:
    """Runs work on threads, or at once where one core is all there is."""

    def __init__(self, *, num_cores: int, is_fetching: bool) -> None:
        decoding = min(num_cores, _MAX_DECODING)
        self._decoding = ThreadPoolExecutor(decoding, "decoding") if decoding > 1 else None
        self._fetching = ThreadPoolExecutor(_MAX_FETCHING, "fetching") if is_fetching else None
        self.max_running = _PER_THREAD * max(
            decoding if self._decoding else 0, _MAX_FETCHING if self._fetching else 0
        )  # 0: nothing is begun before it is wanted

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in (self._decoding, self._fetching):
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def decode(self, num_bytes: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Begin work that decodes so many bytes; of a small image, most is Python's own, and is done at once."""
        if self._decoding is None or num_bytes < _WORTH_A_THREAD_BYTES:
            return _done(work, *args, **kwargs)
        return self._decoding.submit(work, *args, **kwargs)

    def fetch(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Begin work that waits for the network; only where `is_fetching`."""
        assert self._fetching is not None
        return self._fetching.submit(work, *args, **kwargs)


def _done(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
    future: Future[T] = Future()
    try:
        future.set_result(work(*args, **kwargs))
    except Exception as error:  # noqa: BLE001 - as a thread's would, it comes out where the result is asked for
        future.set_exception(error)
    return future
