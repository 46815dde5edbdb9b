"""`/healthz`: this process answers. `/readyz`: the parts it stands on, each by itself."""

import asyncio
from collections.abc import Awaitable
from typing import Literal

import httpx2
from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ValidationError

from api.services import Services, ServicesDep
from core.db import DATABASE_AWAY
from core.errors import WorkFailed
from core.queue import Queue
from models import schema
from models import worker as workers

PART_S = 2.5  # a hung broker may not hold the whole answer

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Part(BaseModel):
    """One part of the service."""

    ok: bool
    detail: str


class Readiness(BaseModel):
    """Ready when the database, its schema and the storage answer; the other parts are told beside them."""

    ready: bool
    parts: dict[str, Part]


class _Serving(BaseModel):
    """What is read of serving's own health."""

    engine: str


@router.get("/healthz")
async def healthz() -> Health:
    """Tell that this process answers; it looks at nothing else."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Not ready"}})
async def readyz(response: Response, services: ServicesDep) -> Readiness:
    """Tell how each part is. Jobs are accepted without a broker, workers or serving, so those do not decide."""
    database, migrations, storage, broker, gpu, cpu, serving = await asyncio.gather(
        _in_time(run_in_threadpool(_database, services)),
        _in_time(run_in_threadpool(_migrations, services)),
        _in_time(run_in_threadpool(_storage, services)),
        _in_time(run_in_threadpool(_broker, services)),
        _in_time(run_in_threadpool(_workers, services, Queue.GPU)),
        _in_time(run_in_threadpool(_workers, services, Queue.CPU)),
        _in_time(_serving(services)),
    )
    ready = database.ok and migrations.ok and storage.ok
    if not ready:
        response.status_code = 503
    parts = {
        "database": database,
        "migrations": migrations,
        "storage": storage,
        "broker": broker,
        "worker-gpu": gpu,
        "worker-cpu": cpu,
        "serving": serving,
    }
    return Readiness(ready=ready, parts=parts)


async def _in_time(look: Awaitable[Part]) -> Part:
    """Wait for a part no longer than this; a thread that hangs goes on by itself until its own timeout."""
    task = asyncio.ensure_future(look)
    done, _ = await asyncio.wait({task}, timeout=PART_S)
    if done:
        return task.result()
    task.cancel()
    return Part(ok=False, detail=f"does not answer within {PART_S:g} s")


def _database(services: Services) -> Part:
    try:
        with services.database.read() as session:
            schema.probe(session)
    except DATABASE_AWAY as error:
        return Part(ok=False, detail=f"does not answer ({type(error).__name__})")
    return Part(ok=True, detail=services.database.engine.dialect.name)


def _migrations(services: Services) -> Part:
    try:
        with services.database.read() as session:
            version = schema.version(session)
    except DATABASE_AWAY:
        return Part(ok=False, detail="cannot be read")
    if version != schema.HEAD:
        return Part(
            ok=False, detail=f"at {version or 'nothing'}, this code needs {schema.HEAD}; run `lensmith migrate`"
        )
    return Part(ok=True, detail=f"at {version}")


def _storage(services: Services) -> Part:
    try:
        services.storage.check()
    except WorkFailed as failed:
        return Part(ok=False, detail=failed.detail)
    return Part(ok=True, detail="writes and reads")


def _broker(services: Services) -> Part:
    if services.doorbell.answers():
        return Part(ok=True, detail="answers")
    return Part(ok=False, detail="does not answer; workers look into the database instead")


def _workers(services: Services, queue: Queue) -> Part:
    silent_s = 3 * services.settings.heartbeat_s
    try:
        with services.database.read() as session:
            count = workers.alive(session, silent_s=silent_s).get(queue, 0)
    except DATABASE_AWAY:
        return Part(ok=False, detail="not known, the database does not answer")
    return Part(ok=count > 0, detail=f"{count} alive" if count else f"none heard of for {silent_s:.0f} s")


async def _serving(services: Services) -> Part:
    try:
        answer = await services.serving.get("/healthz", timeout=2.0)
    except httpx2.HTTPError as error:
        return Part(ok=False, detail=f"does not answer ({type(error).__name__})")
    try:
        engine = _Serving.model_validate_json(answer.content).engine
    except ValidationError:
        return Part(ok=False, detail=f"answers {answer.status_code}, but not as serving does")
    return Part(ok=answer.is_success, detail=engine)
