"""What every endpoint needs, made once per process and handed out by a dependency."""

from dataclasses import dataclass
from typing import Annotated

import httpx2
from fastapi import Depends, Request

from api.jobs.estimates import Estimates
from core.cache import CacheFolder
from core.db import Database
from core.queue import Doorbell, make_celery
from core.settings import Settings
from core.storage import Storage
from models.work import DEFAULT_PROJECT

SERVING_TIMEOUT_S = 310.0  # a little more than serving's own deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The database, the object store and what is kept of it here, the doorbell and the way to serving."""

    settings: Settings
    database: Database
    storage: Storage
    tables: CacheFolder
    thumbnails: CacheFolder
    doorbell: Doorbell
    serving: httpx2.AsyncClient
    estimates: Estimates

    @classmethod
    def of(cls, settings: Settings) -> "Services":
        """Open everything that `settings` names; nothing is contacted yet."""
        settings.layout.make()
        database = Database(settings.resolved_database_url)
        return cls(
            settings=settings,
            database=database,
            estimates=Estimates(database, silent_s=3 * settings.heartbeat_s, project_bound=settings.project_jobs),
            storage=Storage.from_url(settings.resolved_storage_url),
            tables=CacheFolder(settings.layout.tables, max_bytes=settings.cache_bytes),
            thumbnails=CacheFolder(settings.layout.thumbnails, max_bytes=settings.cache_bytes),
            doorbell=Doorbell(make_celery(settings.redis_url, sweep_s=settings.sweep_s)),
            serving=httpx2.AsyncClient(
                base_url=settings.serving_url, timeout=httpx2.Timeout(SERVING_TIMEOUT_S, connect=2.0), trust_env=False
            ),
        )

    async def close(self) -> None:
        """Close what was opened."""
        await self.serving.aclose()
        self.database.close()


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _project() -> str:
    """Return the caller's project; there is one until keys belong to projects."""
    return DEFAULT_PROJECT


ServicesDep = Annotated[Services, Depends(_services)]
ProjectDep = Annotated[str, Depends(_project)]
