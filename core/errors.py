"""The vocabulary of errors, for callers (problems) and for work (failures).

LensmithError
├── Problem               a request was refused; becomes an RFC 9457 document
│   ├── Unauthorized      401  no key, or a wrong one
│   ├── ForeignHost       403  a Host header that is not ours (DNS rebinding)
│   ├── NotFound          404  no such thing, or not yours
│   ├── Conflict          409  it exists, but its state does not allow this
│   ├── InFlight          409  the same request, by its idempotency key, is being answered at this moment
│   ├── TooLarge          413  the body is over the limit
│   ├── Invalid           422  the payload is wrong; `errors` point at the fields
│   ├── Busy              429  a queue is full; try again later
│   ├── Unavailable       503  a part we need does not answer
│   └── TimedOut          504  a part did not answer in time
└── WorkFailed            leased work ended badly; becomes `failure` on its row

A `Problem` says what is wrong and what to do; it never holds a path of this machine or a traceback.
All of them pickle, because they cross process borders.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, ClassVar


class LensmithError(Exception):
    """Base of every error that we raise on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One wrong field: a JSON pointer (RFC 6901, as a URI fragment) and a sentence."""

    pointer: str
    detail: str


class Problem(LensmithError):
    """A request that was refused. Subclasses fix status, title and slug, and after how long to ask again."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    slug: ClassVar[str] = "internal"
    retry_after_s: ClassVar[int | None] = None

    def __init__(self, detail: str, *, errors: tuple[FieldError, ...] = (), **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.extra = extra

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_problem, (type(self), self.detail, self.errors, self.extra)

    def document(self, instance: str) -> dict[str, Any]:
        """Return the RFC 9457 document; `instance` is the request id."""
        body: dict[str, Any] = {
            "type": f"/problems/{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
        }
        if self.errors:
            body["errors"] = [asdict(error) for error in self.errors]
        return body | self.extra


def _rebuild_problem(cls: type[Problem], detail: str, errors: tuple[FieldError, ...], extra: dict[str, Any]) -> Problem:
    return cls(detail, errors=errors, **extra)


class Unauthorized(Problem):
    """The request carries no key, or a wrong one."""

    status, title, slug = 401, "Authentication needed", "unauthorized"


class ForeignHost(Problem):
    """The `Host` header names a machine that we do not serve."""

    status, title, slug = 403, "Host refused", "foreign-host"


class NotFound(Problem):
    """There is no such thing, or the caller may not see it."""

    status, title, slug = 404, "Not found", "not-found"


class Conflict(Problem):
    """The thing exists, but its state does not allow this."""

    status, title, slug = 409, "Conflict with the current state", "conflict"


class InFlight(Problem):
    """A request with this `Idempotency-Key` is being answered at this moment; sent again later, its answer comes back."""

    status, title, slug = 409, "In flight", "in-flight"
    retry_after_s = 1


class TooLarge(Problem):
    """The body is larger than the server takes."""

    status, title, slug = 413, "Body too large", "too-large"


class Invalid(Problem):
    """The payload is wrong; `errors` point at the fields."""

    status, title, slug = 422, "Invalid request", "invalid"

    @classmethod
    def field(cls, pointer: str, detail: str) -> "Invalid":
        """Return the problem of one wrong field."""
        return cls(detail, errors=(FieldError(pointer=pointer, detail=detail),))


class Busy(Problem):
    """A bounded queue is full."""

    status, title, slug = 429, "Busy", "busy"
    retry_after_s = 5


class Unavailable(Problem):
    """A part that this request needs does not answer."""

    status, title, slug = 503, "Temporarily unavailable", "unavailable"
    retry_after_s = 5


class TimedOut(Problem):
    """A part did not answer within the request's deadline."""

    status, title, slug = 504, "Timed out", "timed-out"


PROBLEMS: tuple[type[Problem], ...] = (
    Unauthorized,
    ForeignHost,
    NotFound,
    Conflict,
    InFlight,
    TooLarge,
    Invalid,
    Busy,
    Unavailable,
    TimedOut,
)


class FailureCode(StrEnum):
    """Why leased work failed. The set is part of the API.

    - `bad_data`: what was read of the data cannot be used
    - `source`: nothing could be read of the data where it lies; nothing is known of it
    - `out_of_memory`: the process got no more memory, of the machine or of the GPU
    - `diverged`: the training left the range of numbers
    - `worker_lost`: the workers that had it died, several times
    - `timed_out`: it took too long
    - `storage`: the service's own disk or object store failed
    - `base_model`: the base model cannot be had, or not used like this
    - `internal`: anything else; the log has more
    """

    BAD_DATA = "bad_data"
    SOURCE = "source"
    OUT_OF_MEMORY = "out_of_memory"
    DIVERGED = "diverged"
    WORKER_LOST = "worker_lost"
    TIMED_OUT = "timed_out"
    STORAGE = "storage"
    BASE_MODEL = "base_model"
    INTERNAL = "internal"


class WorkFailed(LensmithError):
    """Leased work ended badly: a code, what happened, and what the user can do about it."""

    def __init__(self, code: FailureCode, detail: str, *, remedy: str, retryable: bool = False) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.remedy = remedy
        self.retryable = retryable

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_failure, (self.code, self.detail, self.remedy, self.retryable)


def _rebuild_failure(code: FailureCode, detail: str, remedy: str, retryable: bool) -> WorkFailed:  # noqa: FBT001 - pickle calls by position
    return WorkFailed(code, detail, remedy=remedy, retryable=retryable)
