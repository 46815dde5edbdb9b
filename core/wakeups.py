"""Wake-ups: "the log of this piece of work has grown", over Redis pub/sub.

They only shorten the wait. Nothing is kept and nothing is confirmed: who follows a log looks into SQL every tick anyway, so a
wake-up that is lost makes the follower slower, never wrong.
"""

import asyncio
import time
from collections.abc import Callable

import redis
import redis.asyncio
from redis.exceptions import RedisError

from core.logs import get_logger
from core.sender import Sender

CHANNEL = "lensmith:wake"
EVERYTHING = ""  # instead of an id: anything may have been missed
BROKER_S = 2.0  # how long a broker may take to answer
SILENT_S = 20.0  # without a message, after which it is asked whether it is there
FIRST_WAIT_S, LAST_WAIT_S = 0.2, 15.0  # between two tries while it is away
AT_ONCE = 1000

log = get_logger(__name__)

# A URL of Celery's may name options that redis-py does not know; then there are no wake-ups.
BROKER_AWAY = (RedisError, OSError, ValueError)


class _Patience:
    """How long to wait before the next try: twice as long each time, from the beginning when the last one worked a while."""

    def __init__(self) -> None:
        self._next_s = FIRST_WAIT_S
        self._began = 0.0

    def begin(self) -> None:
        """Begin a try."""
        self._began = time.monotonic()

    def wait_s(self) -> float:
        """End a try; return the wait."""
        if time.monotonic() - self._began > LAST_WAIT_S:
            self._next_s = FIRST_WAIT_S
        wait_s, self._next_s = self._next_s, min(2 * self._next_s, LAST_WAIT_S)
        return wait_s


class Publisher(Sender):
    """Sends wake-ups from a thread of its own; for threads that may not wait for a broker."""

    def __init__(self, redis_url: str) -> None:
        super().__init__("publisher")
        self._url = redis_url
        self._waiting: set[str] = set()

    def publish(self, work_id: str) -> None:
        """Have followers of this work woken soon. Never waits, never raises."""
        with self._adding():
            if len(self._waiting) < AT_ONCE:
                self._waiting.add(work_id)

    def close(self, *, within_s: float = BROKER_S) -> None:
        """Send what waits, unless the broker is away, and end."""
        super().close(within_s=within_s)

    def _run(self) -> None:
        patience = _Patience()
        while not self._closing.is_set():
            patience.begin()
            try:
                self._send_all()
            except BROKER_AWAY as error:
                log.warning("wake-ups are lost", error=str(error))
            self._closing.wait(patience.wait_s())

    def _send_all(self) -> None:
        """Send until closed; ids that come while a message is under way go together with the next."""
        client = redis.Redis.from_url(self._url, socket_timeout=BROKER_S, socket_connect_timeout=BROKER_S)
        with client:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
                    work_ids, self._waiting = self._waiting, set()
                if not work_ids:
                    return
                with client.pipeline(transaction=False) as pipeline:
                    for work_id in work_ids:
                        pipeline.publish(CHANNEL, work_id)
                    pipeline.execute()


class Listener:
    """Hears wake-ups in an event loop, and comes back when the broker was away."""

    def __init__(self, redis_url: str, wake: Callable[[str], None]) -> None:
        self._url = redis_url
        self._wake = wake

    async def run(self) -> None:
        """Call `wake` with every id that comes, until cancelled; with `EVERYTHING` after each new connection."""
        patience = _Patience()
        while True:
            patience.begin()
            try:
                await self._listen()
            except BROKER_AWAY as error:
                log.warning("no wake-ups, logs are followed by looking", error=str(error))
            await asyncio.sleep(patience.wait_s())

    async def _listen(self) -> None:
        client = redis.asyncio.Redis.from_url(
            self._url, socket_timeout=BROKER_S, socket_connect_timeout=BROKER_S, decode_responses=True
        )
        async with client, client.pubsub() as channel:
            await channel.subscribe(CHANNEL)
            is_asked = False
            while True:
                message = await channel.get_message(timeout=BROKER_S if is_asked else SILENT_S)
                if message is None:
                    if is_asked:
                        raise RedisError("the broker hangs")
                    is_asked = True
                    await channel.ping()
                    continue
                is_asked = False
                if message["type"] == "subscribe":
                    self._wake(EVERYTHING)
                elif message["type"] == "message":
                    self._wake(message["data"])
