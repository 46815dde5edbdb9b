"""The end of one job's log in memory, shared by all who follow it."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from api.jobs.logs import Encoded, Framing
from models.states import EventKind, WorkState

TAIL_BYTES = 1024 * 1024  # what of a log is kept for those who have not taken it yet


class Block:
    """Some items that were read together; each framing of all of them is made once."""

    def __init__(self, items: Sequence[Encoded]) -> None:
        self._items = items
        self._framed: dict[Framing, bytes] = {}
        self.last_seq = items[-1].seq
        self.size_bytes = sum(len(item.json) for item in items)

    def framed(self, framing: Framing, *, after: int, kinds: frozenset[EventKind] | None) -> bytes:
        """Return the items above `after` of these kinds."""
        if kinds is not None or after >= self._items[0].seq:
            return b"".join(
                framing.item(item) for item in self._items if item.seq > after and (kinds is None or item.kind in kinds)
            )
        if framing not in self._framed:
            self._framed[framing] = b"".join(map(framing.item, self._items))
        return self._framed[framing]


class Place:
    """How far one follower is. It belongs to the tail, which drops what every follower has behind it."""

    def __init__(self, seq: int) -> None:
        self.seq = seq


class Tail:
    """Blocks from behind `start_seq` to `head_seq`, and the state that the job had when `head_seq` was its last item.

    Only the event loop touches it. `head_seq` is None until the first look.
    """

    def __init__(self) -> None:
        self.head_seq: int | None = None
        self.start_seq = 0
        self.state: WorkState | None = None
        self.is_closed = False
        self.places: set[Place] = set()
        self._blocks: deque[Block] = deque()
        self._size_bytes = 0
        self._changed = asyncio.Event()

    def begin(self, head_seq: int) -> None:
        """Begin behind this item; what comes before is read from the log itself."""
        self.head_seq = self.start_seq = head_seq
        self._announce()

    def append(self, items: Sequence[Encoded]) -> None:
        """Add what follows `head_seq`, and drop what nobody waits for, or what is too much to keep."""
        block = Block(items)
        self.head_seq, self.state = block.last_seq, None  # with these items it may have another
        self._blocks.append(block)
        self._size_bytes += block.size_bytes
        slowest = min((place.seq for place in self.places), default=block.last_seq)
        while self._blocks and (
            self._blocks[0].last_seq <= slowest or (self._size_bytes > TAIL_BYTES and len(self._blocks) > 1)
        ):
            dropped = self._blocks.popleft()
            self._size_bytes -= dropped.size_bytes
            self.start_seq = dropped.last_seq
        self._announce()

    def stand(self, state: WorkState) -> None:
        """Note the state that the job has with these items."""
        if state is not self.state:
            self.state = state
            self._announce()

    def close(self) -> None:
        """Send everybody away: the job is gone, or the server stops."""
        self.is_closed = True
        self._announce()

    def after(self, seq: int) -> Block | None:
        """Return the block that holds the item after `seq`; None: there is none yet."""
        return next((block for block in self._blocks if block.last_seq > seq), None)

    async def changed(self, *, within_s: float) -> None:
        """Wait for the next change, or for that long. Whoever looked before without waiting in between misses none."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):  # `wait_for` of Python 3.11 may swallow a cancellation
                await self._changed.wait()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
