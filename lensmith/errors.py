"""What can go wrong when the SDK talks to a server.

LensmithClientError
├── Unreachable     no answer: the server is not there, or the network is broken
├── NotUploadable   a folder that cannot become a zip; nothing was sent
└── ApiError        the server refused; `status`, `title`, `detail`, `errors`, `request_id` are its words
"""

from typing import Any


class LensmithClientError(Exception):
    """Base of the SDK's errors."""


class Unreachable(LensmithClientError):
    """The server does not answer."""


class NotUploadable(LensmithClientError):
    """The folder cannot be uploaded as it is."""


class ApiError(LensmithClientError):
    """The server refused the request."""

    def __init__(self, document: dict[str, Any], *, status: int, retry_after_s: float | None = None) -> None:
        self.document = document
        self.status = status
        self.retry_after_s = retry_after_s
        self.title = str(document.get("title", "Error"))
        self.detail = str(document.get("detail", ""))
        self.errors: list[dict[str, str]] = document.get("errors", [])
        self.request_id = str(document.get("instance", ""))
        super().__init__(f"{status} {self.title}: {self.detail}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.document, self.status)


def _rebuild(document: dict[str, Any], status: int) -> ApiError:
    return ApiError(document, status=status)
