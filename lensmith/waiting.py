"""Waiting: for something to end, and for a server that restarts."""

import time
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel

POLL_S = 0.5
BACKOFF_S = 0.5  # after the first failure; doubled with every further one
MAX_BACKOFF_S = 4.0
MAX_FAILURES = 10  # in a row, before a server is given up: half a minute

R = TypeVar("R", bound=BaseModel)


def until(look: Callable[[], R], is_done: Callable[[R], bool]) -> R:
    """Look again and again until what is seen is done."""
    while not is_done(found := look()):
        time.sleep(POLL_S)
    return found


class Patience:
    """With a server that fails in passing: a number of failures in a row, with longer and longer pauses."""

    def __init__(self) -> None:
        self.failures = 0

    def spend(self, error: Exception, *, is_passing: bool) -> None:
        """Wait after a failure; raise it when it does not pass, or when it is one too many."""
        self.failures += 1
        if not is_passing or self.failures > MAX_FAILURES:
            raise error
        pause(self.failures)


def pause(failures: int) -> None:
    """Wait after so many failures in a row."""
    time.sleep(min(BACKOFF_S * 2 ** (failures - 1), MAX_BACKOFF_S))
