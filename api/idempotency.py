"""`Idempotency-Key`: the same key and body give the stored answer; the key is written with the row it protects."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header, Request
from fastapi.responses import JSONResponse
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from api.services import Services
from core.clock import utc_now
from core.db import insert
from core.errors import InFlight, Invalid, Problem
from models import idempotency
from models.idempotency import IdempotencyKey

KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="sent again with the same body, the first answer comes back and nothing is made twice (24 hours)",
    ),
]

_lock = threading.Lock()
_in_flight: dict[tuple[str, str, str | None], int] = {}  # by database, project and key: the thread that answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a request that makes something answers."""

    status: int
    body: dict[str, Any]
    location: str
    replayed: bool = False

    def response(self) -> JSONResponse:
        """Return the HTTP response."""
        headers = {"Location": self.location}
        if self.replayed:
            headers["Idempotent-Replayed"] = "true"
        return JSONResponse(self.body, status_code=self.status, headers=headers)


def fingerprint(*parts: object) -> str:
    """Return the sha256 of a request's content in canonical form."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def answered(services: Services, request: Request, *, project: str, key: str | None, content: str) -> Answer | None:
    """Return the stored answer of a request whose making is costly, before anything is made."""
    if key is None:
        return None
    with services.database.read() as session:
        stored = idempotency.find(session, project=project, key=key)
    return None if stored is None else _replay(stored, _route(request), content)


def once(
    services: Services,
    request: Request,
    *,
    project: str,
    key: str | None,
    content: str,
    make: Callable[[Session], Answer],
) -> Answer:
    """Make something in one transaction, together with its key; or give the stored answer back.

    The key is looked for only when it is taken, or when nothing can be made: a key is nearly always new.

    Raises:
        InFlight: A request with this key is being answered at this moment, here or in another process.
    """
    if key is None:
        with services.database.write() as session:
            return make(session)
    route = _route(request)
    with in_flight(services, project=project, key=key):
        for _ in range(2):
            try:
                with services.database.write() as session:
                    if not idempotency.hold(session, project=project, key=key):
                        raise _being_answered(key)
                    answer = make(session)
                    insert(session, IdempotencyKey, _row(answer, project, key, route, content))
                    return answer
            except IntegrityError:  # the key is taken: its answer is there now, unless it is older than a day
                stored = _stored(services, project=project, key=key, forget=True)
            except Problem:  # what was made before may be gone, or full, by now; its answer is still that answer
                stored = _stored(services, project=project, key=key)
                if stored is None:
                    raise
            if stored is not None:
                return _replay(stored, route, content)
    raise Invalid("This Idempotency-Key is in use by requests that contradict each other; use a fresh one.")


@contextmanager
def in_flight(services: Services, *, project: str, key: str | None) -> Iterator[None]:
    """Be the only request with this key in this process. Costly work begins inside; its thread may enter again.

    Other processes are kept out by the transaction that makes the row (`once`). Nothing of either outlives a crash.

    Raises:
        InFlight: Another request is.
    """
    entry, me = (services.database.url, project, key), threading.get_ident()
    with _lock:
        holder = _in_flight.get(entry)
        if key is not None and holder is None:
            _in_flight[entry] = me
    if key is None or holder == me:
        yield
        return
    if holder is not None:
        raise _being_answered(key)
    try:
        yield
    finally:
        with _lock:
            del _in_flight[entry]


def _being_answered(key: str) -> InFlight:
    return InFlight(f"A request with the Idempotency-Key {key!r} is being answered. Send it again in a moment.")


def _stored(services: Services, *, project: str, key: str, forget: bool = False) -> IdempotencyKey | None:
    """Return the answer of a key; with `forget`, an old one that was not swept yet is removed, so that the key is free."""
    with services.database.write() if forget else services.database.read() as session:
        if forget:
            idempotency.forget_if_old(session, project=project, key=key)
        return idempotency.find(session, project=project, key=key)


def _route(request: Request) -> str:
    return f"{request.method} {request.url.path}"


def _row(answer: Answer, project: str, key: str, route: str, content: str) -> dict[str, Any]:
    return {
        "project": project,
        "key": key,
        "route": route,
        "fingerprint": content,
        "status": answer.status,
        "body": answer.body,
        "location": answer.location,
        "created_at": utc_now(),
    }


def _replay(stored: IdempotencyKey, route: str, content: str) -> Answer:
    if (stored.route, stored.fingerprint) != (route, content):
        raise Invalid("This Idempotency-Key was used for another request; use a fresh one.")
    return Answer(status=stored.status, body=stored.body, location=stored.location or "", replayed=True)
