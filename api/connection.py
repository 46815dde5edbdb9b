"""A connection that is given up when its client takes nothing for a while.

An ASGI application cannot do this: once a client stops reading, whatever wants to send waits, and to give the response up leaves
the connection open with what was not sent. (uvicorn has no time-out for writing.)
"""

import asyncio
import socket
import struct
import sys
from contextlib import suppress
from fcntl import ioctl
from termios import TIOCOUTQ

from uvicorn.protocols.http.h11_impl import H11Protocol

from core.logs import get_logger

SEND_S = 30.0  # how long a client may take no bytes while some wait for it
_AT_ONCE = struct.pack("ii", 1, 0)  # linger: the kernel forgets what was not sent instead of offering it for minutes

log = get_logger(__name__)


class Connection(H11Protocol):
    """uvicorn's protocol, with an eye on what the client takes."""

    _looking: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Begin to look: more waits for the client than a buffer holds."""
        super().pause_writing()
        self._look_again()

    def resume_writing(self) -> None:
        """The client took enough."""
        super().resume_writing()
        self._stop_looking()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._stop_looking()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        self._looking = self.loop.call_later(SEND_S, self._look, self._waiting_bytes())

    def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _look(self, waiting_bytes: int) -> None:
        """Nothing is written while writing is paused, so what did not shrink is what nobody reads."""
        if self._waiting_bytes() < waiting_bytes:
            self._look_again()
            return
        log.warning("a client that takes nothing is dropped", waiting_bytes=waiting_bytes)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.transport.abort()

    def _waiting_bytes(self) -> int:
        """Return what the client has not taken, the kernel's part included.

        That part may be megabytes, and the kernel asks for more only when a good part of it is gone: a client that reads slowly
        would look like one that does not read at all.
        """
        in_kernel = bytearray(4)
        with suppress(OSError):
            ioctl(self._socket.fileno(), TIOCOUTQ, in_kernel)
        return self.transport.get_write_buffer_size() + int.from_bytes(in_kernel, sys.byteorder)

    @property
    def _socket(self) -> socket.socket:
        found: socket.socket = self.transport.get_extra_info("socket")
        return found
