"""`python -m worker.main --queue gpu`: one worker. It never imports torch; its children do.

Celery's tasks only ring a bell inside this process (`--pool solo`); the slot claims from SQL and supervises children.
So a message costs a millisecond, remote control always answers, and work goes on while the broker is away.
"""

import argparse
import os
import signal
import threading

from celery.signals import setup_logging, worker_shutting_down
from celery.worker import state as celery_state

from core import logs
from core.process import die_with_parent
from core.queue import LOOK_TASK, SWEEP_TASK, Queue
from core.settings import settings
from worker.app import app
from worker.service import Service

log = logs.get_logger(__name__)


def main() -> None:
    """Run until SIGTERM; then give running work back and leave."""
    die_with_parent()
    arguments = _parse_arguments()
    logs.configure(settings().log_format, part=f"worker-{arguments.queue}")
    service = Service(Queue(arguments.queue), settings(), beat=arguments.beat)
    _register(service)
    setup_logging.connect(lambda **_: None, weak=False)  # ours stays; Celery's would hide all below a warning
    worker_shutting_down.connect(lambda **_: _stop_soon(service), weak=False)  # at the signal, not when Celery is done
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: _stop_early(service))  # until Celery's own handlers are there
    try:
        service.start()
        log.info("worker up", queue=arguments.queue, beat=arguments.beat)
        app.worker_main(
            [
                "--quiet",
                "worker",
                "--pool=solo",
                f"--queues={arguments.queue}",
                f"--hostname={arguments.queue}@%h",
                "--without-mingle",
                "--without-gossip",
                "--without-heartbeat",  # it would wait for a hung broker, and so would the exit
            ]
        )
    finally:
        service.stop()
        log.info("worker down", queue=arguments.queue)


def _stop_soon(service: Service) -> None:
    """Stop the slot from a thread: this runs inside of a signal handler, perhaps of the thread that rings the bell."""
    threading.Thread(target=service.slot.stop).start()


def _stop_early(service: Service) -> None:
    """Stop the slot, and Celery before it consumes. No exception: one that is raised where Python ignores it is lost."""
    celery_state.should_stop = os.EX_OK
    _stop_soon(service)


def _register(service: Service) -> None:
    """Give Celery the two messages that there are."""

    def look(work_id: str) -> None:
        log.debug("doorbell", work_id=work_id)
        service.slot.bell.set()

    def sweep() -> None:
        service.sweep()

    app.task(look, name=LOOK_TASK)
    app.task(sweep, name=SWEEP_TASK)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run one Lensmith worker.")
    parser.add_argument("--queue", choices=[queue.value for queue in Queue], required=True)
    parser.add_argument("--beat", action="store_true", help="send the periodic sweep as well (one worker does)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
