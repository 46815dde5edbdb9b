"""Who may come in: a bearer key when one is set; without one, loopback only, and only under a loopback name."""

import hmac
import ipaddress
from urllib.parse import SplitResult, urlsplit

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from core.errors import ForeignHost, Problem, Unauthorized
from core.http import problem_response
from core.settings import Settings

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
OPEN_PREFIXES = ("/docs/", "/problems/")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Gate:
    """ASGI middleware in front of every path, the unknown ones as well."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._key = settings.api_key.get_secret_value() if settings.api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer with a problem."""
        if scope["type"] == "http":
            request = Request(scope)
            problem = self._refusal(request)
            if problem is not None:
                await problem_response(request, problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, request: Request) -> Problem | None:
        if self._key is None:
            return _foreign_host(request) or _foreign_page(request)
        path = str(request.scope["path"])  # `request.url` is made with the Host header, which the caller writes
        if path in OPEN_PATHS or path.startswith(OPEN_PREFIXES):
            return None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), self._key.encode()):
            return None
        return Unauthorized("Send the server's key as `Authorization: Bearer <key>` (LENSMITH_API_KEY).")


def _foreign_host(request: Request) -> Problem | None:
    """Refuse a name that a page elsewhere made point at this machine (DNS rebinding)."""
    host = request.headers.get("host", "")
    if _is_loopback(f"//{host}"):
        return None
    return ForeignHost(
        f"This server has no key, so it answers only under localhost, not under {host!r}. Set LENSMITH_API_KEY to serve others."
    )


def _foreign_page(request: Request) -> Problem | None:
    """Refuse what a page elsewhere makes a browser send here: a form needs no permission to post a job."""
    if request.method in SAFE_METHODS:
        return None
    origin = request.headers.get("origin")
    if request.headers.get("sec-fetch-site") != "cross-site" and (origin is None or _is_loopback(origin)):
        return None
    return ForeignHost(
        f"This server has no key, so it takes no request of a page elsewhere (Origin {origin!r}). Set LENSMITH_API_KEY to serve others."
    )


def _is_loopback(url: str) -> bool:
    """Tell whether a URL names this machine and nothing beside it."""
    try:
        parts = urlsplit(url)
        return _is_bare(parts) and _is_loopback_name(parts.hostname or "")
    except ValueError:  # `[`, or a port that is no number
        return False


def _is_bare(parts: SplitResult) -> bool:
    """Read the port as well, which raises when it is none."""
    return "@" not in parts.netloc and not (parts.path or parts.query or parts.fragment) and parts.port != 0


def _is_loopback_name(name: str) -> bool:
    return name == "localhost" or ipaddress.ip_address(name).is_loopback
