"""The Celery application, for the worker and for Celery's own commands (`celery -A worker.app status|beat`)."""

from celery import Celery

from core.queue import make_celery
from core.settings import settings

app: Celery = make_celery(settings().redis_url, sweep_s=settings().sweep_s)
