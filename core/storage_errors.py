"""What a store raises, said as a failure that names the object and the remedy."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from obstore.exceptions import BaseError

from core.errors import FailureCode, WorkFailed

_PAUSES_S = (0.1, 0.4, 1.6)
_QUICK_S = 5.0  # what failed later than that was tried again and again by obstore

T = TypeVar("T")


@contextmanager
def told(key: str) -> Iterator[None]:
    """Turn what the store raises into `WorkFailed(storage)`."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise storage_failed(key, error) from error


def storage_failed(key: str, error: Exception) -> WorkFailed:
    """Return the failure that says which object could not be stored or read."""
    what = (
        "is not in the store"
        if isinstance(error, FileNotFoundError)
        else f"could not be stored or read ({type(error).__name__})"
    )
    return WorkFailed(
        FailureCode.STORAGE,
        f"The object {key} {what}.",
        remedy="Check the free space and the rights of LENSMITH_STORAGE_URL; then do it again.",
        retryable=True,
    )


def again(act: Callable[[], T]) -> T:
    """Do what can be done over, up to four times, while the store fails at once; hours of training hang on one object."""
    until = time.monotonic() + _QUICK_S
    for pause_s in _PAUSES_S:
        try:
            return act()
        except WorkFailed as failed:
            if isinstance(failed.__cause__, FileNotFoundError) or time.monotonic() > until:
                raise
            time.sleep(pause_s)
    return act()
