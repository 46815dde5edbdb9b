"""HTTP as thin as it can be: the client shares two cores with what it measures."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any


class Wire:
    """One connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, port: int) -> "Wire":
        """Connect to this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def post(self, path: str, body: bytes, **headers: str) -> Any:
        """Return the answer's JSON; anything but a success ends the benchmark."""
        fields = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        self._writer.write(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        size = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        content = await self._reader.readexactly(size)
        if not answer.startswith(b"HTTP/1.1 202 "):
            raise RuntimeError(f"{answer!r} {content!r}")
        return json.loads(content)

    async def follow(self, path: str) -> AsyncIterator[int]:
        """Yield the number of each item of a stream, until it says that the job has ended."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode())
        async for line in self._reader:
            if line.startswith(b"id: "):
                yield int(line[4:])
            elif line == b"event: end\n":
                return

    def close(self) -> None:
        """Leave."""
        self._writer.close()
