"""The doorbell: a Celery message that holds one id and says "look into SQL now".

SQL is the queue. A message may be lost, doubled or late without harm, so it is acknowledged early, and a broker that is
away costs a few seconds (workers look by themselves), never a job.
"""

from enum import StrEnum

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from core.logs import get_logger

LOOK_TASK = "lensmith.look"
SWEEP_TASK = "lensmith.sweep"

log = get_logger(__name__)


class Queue(StrEnum):
    """The kinds of worker: one per GPU, and the rest."""

    GPU = "gpu"
    CPU = "cpu"


def make_celery(redis_url: str, *, sweep_s: float) -> Celery:
    """Return the Celery application; the API sends with it, the workers run it."""
    app = Celery("lensmith", broker=redis_url)
    app.conf.update(
        task_acks_late=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue=Queue.CPU.value,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=0,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=2,
        broker_transport_options={
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 25,
            "global_keyprefix": "lensmith:",
        },
        beat_scheduler="celery.beat:Scheduler",
        beat_schedule={"sweep": {"task": SWEEP_TASK, "schedule": sweep_s, "options": {"queue": Queue.CPU.value}}},
        enable_utc=True,
    )
    return app


class Doorbell:
    """Rings for work that was just committed."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def ring(self, queue: Queue, work_id: str) -> bool:
        """Send one message, best effort; return whether the broker took it."""
        try:
            self._app.send_task(LOOK_TASK, args=[work_id], queue=queue.value, retry=False, ignore_result=True)
        except (OperationalError, RedisError, OSError) as error:
            log.warning("doorbell lost", work_id=work_id, error=str(error))
            return False
        return True

    def answers(self) -> bool:
        """Tell whether the broker answers."""
        try:
            with self._app.connection_for_write(connect_timeout=1) as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=1)
        except (OperationalError, RedisError, OSError):
            return False
        return True
