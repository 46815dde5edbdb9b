"""What every endpoint needs, made once per process and handed out by a dependency."""

from dataclasses import dataclass
from typing import Annotated

import httpx2
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from api.jobs.estimates import Estimates
from api.jobs.hub import Hub
from api.jobs.outlooks import Outlooks
from core.cache import CacheFolder
from core.db import Database
from core.queue import Doorbell, make_celery
from core.ringer import Ringer
from core.settings import Settings
from core.storage import Storage
from models.history import History
from models.work import DEFAULT_PROJECT

SERVING_TIMEOUT_S = 310.0  # a little more than serving's own deadline
LAST_RINGS_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The database, the object store and what is kept of it here, the logs, the doorbell and the way to serving."""

    settings: Settings
    database: Database
    storage: Storage
    tables: CacheFolder
    thumbnails: CacheFolder
    history: History
    hub: Hub
    doorbell: Ringer
    serving: httpx2.AsyncClient
    estimates: Estimates
    outlooks: Outlooks

    @classmethod
    def of(cls, settings: Settings) -> "Services":
        """Open everything that `settings` names; nothing is contacted yet."""
        settings.layout.make()
        database, storage = Database(settings.resolved_database_url), Storage.from_url(settings.resolved_storage_url)
        history = History(database, storage)
        return cls(
            settings=settings,
            database=database,
            estimates=Estimates(database, silent_s=3 * settings.heartbeat_s, project_bound=settings.project_jobs),
            outlooks=Outlooks(silent_s=3 * settings.heartbeat_s),
            storage=storage,
            history=history,
            hub=Hub(database, history, redis_url=settings.redis_url),
            tables=CacheFolder(settings.layout.tables, max_bytes=settings.cache_bytes),
            thumbnails=CacheFolder(settings.layout.thumbnails, max_bytes=settings.cache_bytes),
            doorbell=Ringer(Doorbell(make_celery(settings.redis_url, sweep_s=settings.sweep_s))),
            serving=httpx2.AsyncClient(
                base_url=settings.serving_url, timeout=httpx2.Timeout(SERVING_TIMEOUT_S, connect=2.0), trust_env=False
            ),
        )

    async def close(self) -> None:
        """Close what was opened."""
        await run_in_threadpool(self.doorbell.close, within_s=LAST_RINGS_S)
        await self.serving.aclose()
        self.database.close()


async def _services(request: Request) -> Services:  # `async`, for otherwise FastAPI asks a thread for it
    services: Services = request.app.state.services
    return services


async def _project() -> str:
    """Return the caller's project; there is one until keys belong to projects."""
    return DEFAULT_PROJECT


ServicesDep = Annotated[Services, Depends(_services)]
ProjectDep = Annotated[str, Depends(_project)]
