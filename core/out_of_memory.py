"""How libraries say that memory did not do. Torch-free: by the names of their errors and by their words."""

import errno
import re

_TYPES = frozenset({"OutOfMemoryError"})  # of torch
_WORDS = re.compile(
    r"out of memory|not enough memory|can(?:no|')t allocate memory|bad_alloc|ALLOC_FAILED|MemoryAllocation",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory could not be had."""
    if isinstance(error, MemoryError) or type(error).__name__ in _TYPES:
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _WORDS.search(str(error)) is not None
