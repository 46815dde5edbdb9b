"""What one data set may fetch, counted over every thread that fetches for it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ingest.issues import FetchFailed, Finding, Rule
from ingest.limits import RemoteLimits


class Share:
    """The URLs, bytes and seconds of one data set.

    A second counts once, however many threads wait in it: what is bounded is how long a worker is held.
    """

    def __init__(self, limits: RemoteLimits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._num_urls = 0
        self._came_bytes = 0
        self._num_running = 0
        self._running_since = 0.0
        self._spent_s = 0.0

    @contextmanager
    def one_url(self) -> Iterator[None]:
        """Count one URL, and the time until the block ends.

        Raises:
            FetchFailed: the share of URLs, bytes or seconds is used up.
        """
        with self._lock:
            self._num_urls += 1
            self._check()
            if not self._num_running:
                self._running_since = self._clock()
            self._num_running += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_running -= 1
                if not self._num_running:
                    self._spent_s += self._clock() - self._running_since

    def left_s(self) -> float:
        """Return how many seconds are left; negative when they are over."""
        with self._lock:
            return self._left_s()

    def came(self, size_bytes: int) -> None:
        """Count bytes that came.

        Raises:
            FetchFailed: they are more than may come.
        """
        with self._lock:
            self._came_bytes += size_bytes
            if self._came_bytes > self._limits.max_total_bytes:
                raise self._too_many_bytes()

    def _left_s(self) -> float:
        running_s = self._clock() - self._running_since if self._num_running else 0.0
        return self._limits.total_s - self._spent_s - running_s

    def _check(self) -> None:
        limits = self._limits
        if self._num_urls > limits.max_urls:
            raise _used_up(f"the data set names more than {limits.max_urls:,} different URLs")
        if self._came_bytes >= limits.max_total_bytes:
            raise self._too_many_bytes()
        if self._left_s() <= 0:
            raise _used_up(f"fetching the images took more than {limits.total_s:g} s")

    def _too_many_bytes(self) -> FetchFailed:
        return _used_up(f"the images at URLs have more than {self._limits.max_total_bytes:,} bytes")


def _used_up(what: str) -> FetchFailed:
    fix = "Split it into several data sets, or upload a zip that holds the images."
    return FetchFailed(Finding(rule=Rule.TOO_MUCH_DATA, message=f"{what}; no further one is fetched.", fix=fix))
