"""What a store raises, said as a failure that names the object and the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import BaseError

from core.errors import FailureCode, WorkFailed


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
