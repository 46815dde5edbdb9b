"""The API behind a real socket, in a thread of this process, so that a test can count its queries."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
import uvicorn

from api.app import create_app
from api.connection import Connection
from core.settings import Settings
from tests.conftest import wait_for


class Served:
    """A running API."""

    def __init__(self, settings: Settings) -> None:
        self.app = create_app(settings)
        config = uvicorn.Config(
            self.app, host="127.0.0.1", port=0, http=Connection, log_config=None, timeout_graceful_shutdown=5
        )
        self.server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),))

    @property
    def services(self):
        return self.app.state.services

    @property
    def address(self) -> tuple[str, int]:
        return self.server.servers[0].sockets[0].getsockname()

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.address)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self.server.serve()

    def start(self) -> None:
        self._thread.start()
        wait_for(lambda: self.server.started, within_s=60, what="the API")

    def stopping(self) -> None:
        """Do what a signal does, which reaches no thread."""
        self._loop.call_soon_threadsafe(self.app.state.stopping.set)

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join()


@contextmanager
def serving(settings: Settings) -> Iterator[Served]:
    """Serve as long as the block lasts."""
    served = Served(settings)
    served.start()
    try:
        yield served
    finally:
        served.stop()


@contextmanager
def counting(engine: sa.Engine) -> Iterator[list[str]]:
    """Collect the statements of an engine, those that begin transactions left out."""
    statements: list[str] = []

    def note(_connection, _cursor, statement, *_rest):
        if not statement.startswith("BEGIN"):
            statements.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
