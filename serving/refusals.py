"""How the failure of a base or of a row is told to a caller. Torch-free."""

from core.errors import FailureCode, Invalid, NotFound, Problem, Unavailable, WorkFailed


def as_problem(error: Problem | WorkFailed) -> Problem:
    """Return the problem that stands for an error."""
    if isinstance(error, Problem):
        return error
    detail = error.detail[:1].upper() + error.detail[1:].rstrip(".")
    return _kind(error)(f"{detail}. {error.remedy}", code=error.code.value)


def _kind(error: WorkFailed) -> type[Problem]:
    if error.code is FailureCode.BAD_DATA:
        return Invalid
    is_missing = error.code is FailureCode.BASE_MODEL and not error.retryable  # a Hub that is away may be back
    return NotFound if is_missing else Unavailable
