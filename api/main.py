"""`python -m api.main`: the API as a process."""

import uvicorn

from api.app import create_app
from api.connection import Connection
from core import logs
from core.process import die_with_parent
from core.settings import settings

GRACE_S = 5


def main() -> None:
    """Serve until SIGTERM; open streams end cleanly."""
    die_with_parent()
    logs.configure(settings().log_format, part="api")
    if settings().exposure is not None:
        raise SystemExit(settings().exposure)
    uvicorn.run(
        create_app(settings()),
        host=settings().host,
        port=settings().port,
        log_config=None,
        access_log=False,
        http=Connection,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )


if __name__ == "__main__":
    main()
