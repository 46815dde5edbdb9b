"""Making jobs, one or many: once for each key, and with every plan that is wanted made outside of the transaction."""

from collections.abc import Callable

from fastapi import Request
from sqlmodel import Session

from api.idempotency import Answer, once
from api.services import Services


def submit(
    services: Services,
    request: Request,
    *,
    project: str,
    key: str | None,
    content: str,
    make: Callable[[Session], Answer],
) -> Answer:
    """Make something in one transaction, together with its key (`once`), again when a plan was missing (`Outlooks.planned`)."""
    return services.outlooks.planned(
        lambda: once(services, request, project=project, key=key, content=content, make=make)
    )
