"""The serving process: `python -m serving.main --host 127.0.0.1 --port 8001`."""

import argparse
import os
import signal

import uvicorn

from core import logs
from core.process import calm_threads, die_with_parent
from serving.app import create_app
from serving.options import ServingSettings

GRACE_S = 5  # what a client that does not read its stream may hold up the exit


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    die_with_parent()
    calm_threads()
    parser = argparse.ArgumentParser(description="Generate with base models and the adapters trained on them.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001)
    arguments = parser.parse_args()
    settings = ServingSettings()
    logs.configure(settings.log_format, part="serving")
    uvicorn.run(
        create_app(settings, on_death=_end),
        host=arguments.host,
        port=arguments.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_S,
    )


def _end() -> None:
    """End this process as if it was told to: open requests are answered, and a supervisor starts the next one."""
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
