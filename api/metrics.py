"""`/metrics` for Prometheus: how requests fare, how many jobs stand where. No label ever holds an id."""

import time
from collections.abc import Iterator

from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import core
from core.db import Database
from models import job as jobs
from models.states import WorkState

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # a caller may write any word there
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Jobs(Collector):
    """Counts jobs when somebody looks."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def describe(self) -> list[Metric]:
        """Return nothing: to describe would be to look."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the number of jobs per state, zeros as well."""
        database: Database = self._app.state.services.database
        with database.read() as session:
            counts = jobs.count_by_state(session)
        family = GaugeMetricFamily("lensmith_jobs", "Jobs by state.", labels=["state"])
        for state in WorkState:
            family.add_metric([state.value], counts.get(state, 0))
        yield family


class Durations:
    """ASGI middleware that measures every request under its route's template."""

    def __init__(self, app: ASGIApp, histogram: Histogram) -> None:
        self._app = app
        self._histogram = histogram

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Measure until the response's headers leave; a stream counts as answered then."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                method = scope["method"] if scope["method"] in METHODS else "other"
                labels = (route, method, str(message["status"]))
                self._histogram.labels(*labels).observe(time.monotonic() - started)
            await send(message)

        await self._app(scope, receive, measured)


def install_metrics(app: FastAPI) -> None:
    """Measure the requests of `app` and serve `/metrics`."""
    registry = CollectorRegistry()
    histogram = Histogram(
        "lensmith_http_request_duration_seconds",
        "Time to the head of an answer.",
        ("route", "method", "status"),
        buckets=BUCKETS_S,
        registry=registry,
    )
    build = Gauge("lensmith_build_info", "The version that runs.", ("version",), registry=registry)
    build.labels(core.VERSION).set(1)
    registry.register(Jobs(app))
    app.add_middleware(Durations, histogram=histogram)

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
