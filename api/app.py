"""The API application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from sqlalchemy.exc import DataError

import core
from api import documents, health, metrics
from api.adapters import routes as adapters
from api.auth import Gate
from api.base_models import routes as base_models
from api.datasets import examples, pictures
from api.datasets import preview as dataset_preview
from api.datasets import routes as datasets
from api.datasets import token_counts as dataset_tokens
from api.datasets.sources import SourceRequest, UploadedRequest
from api.infer import routes as infer
from api.infer.schemas import InferRequest
from api.jobs import memory
from api.jobs import routes as jobs
from api.services import Services
from api.uploads import routes as uploads
from core.db import DATABASE_AWAY
from core.errors import Invalid, Unavailable
from core.http import ending_streams, install_problems, problem_response
from core.logs import get_logger
from core.settings import MIB, Settings

DEFAULT_BODY_BYTES = MIB

log = get_logger(__name__)

DESCRIPTION = """\
Fine-tunes small vision-language models with quantized LoRA and serves the adapters it made.

1. `POST /datasets` takes pictures with questions and answers, and a worker checks every row; what is large comes in
   parts by `POST /uploads`.
2. `POST /jobs` makes a job; `GET /jobs/{id}/logs` follows it live.
3. `POST /infer` asks the adapter, or its base model, about a picture.

Refusals are RFC 9457 problem documents; lists are newest first with a cursor; `Idempotency-Key` is honoured on every
POST that makes something.
"""


def create_app(settings: Settings) -> FastAPI:
    """Return the application over these settings."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.services = Services.of(settings)
        async with ending_streams(app), app.state.services.hub.watching(app.state.stopping):
            yield
        await app.state.services.close()

    app = documents.DocumentedApp(
        title="Lensmith",
        version=core.VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        max_body_size=DEFAULT_BODY_BYTES,
        telemetry={"tracing": False},
    )
    app.documented += (InferRequest, SourceRequest, UploadedRequest)
    app.add_middleware(Gate, settings=settings)
    metrics.install_metrics(app)
    install_problems(app)
    for away in DATABASE_AWAY:
        app.add_exception_handler(away, _on_database_away)
    app.add_exception_handler(DataError, _on_refused_value)
    documents.install_docs(app)
    for router in (
        jobs.router,
        memory.stats,
        datasets.make_router(settings),
        examples.router,
        pictures.router,
        dataset_preview.router,
        dataset_tokens.router,
        uploads.make_router(settings),
        adapters.router,
        infer.make_router(settings),
        base_models.router,
    ):
        app.include_router(router, responses=documents.EVERYWHERE, dependencies=[documents.KEY])
    app.include_router(health.router)
    app.include_router(documents.router)
    return app


def _on_database_away(request: Request, error: Exception) -> Response:
    log.warning("database away", path=request.url.path, error=str(error))
    return problem_response(request, Unavailable("The database does not answer as it should; GET /readyz tells more."))


def _on_refused_value(request: Request, error: Exception) -> Response:
    log.warning("value refused by the database", path=request.url.path, error=str(error))
    return problem_response(request, Invalid("A value of this request cannot be kept by the database."))
