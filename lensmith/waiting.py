"""Waiting for something to end, over a server that restarts."""

import time
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel

from lensmith.errors import ApiError, Unreachable
from lensmith.transport import MAX_FAILURES, is_passing

POLL_S = 0.5
RECONNECT_S = 1.0

R = TypeVar("R", bound=BaseModel)


def until(look: Callable[[], R], is_done: Callable[[R], bool]) -> R:
    """Look again and again until what is seen is done."""
    failures = 0
    while True:
        try:
            found = look()
        except (Unreachable, ApiError) as error:
            failures += 1
            if failures > MAX_FAILURES or not is_passing(error):
                raise
        else:
            failures = 0
            if is_done(found):
                return found
        time.sleep(POLL_S if failures == 0 else RECONNECT_S)
