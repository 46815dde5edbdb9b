"""Reads ahead of its consumer, so that what was begun has time to end; the order stays, that of faults too."""

from collections import deque
from collections.abc import Iterator
from typing import Protocol, TypeVar

from ingest.issues import SourceFault
from ingest.limits import MIB

_MAX_WAITING = 64
_MAX_BYTES = 64 * MIB  # in what waits; one more may always be begun


class Begun(Protocol):
    """Something that other threads may be working on."""

    @property
    def num_running(self) -> int:
        """Return how many pieces of work were begun for it."""

    @property
    def held_bytes(self) -> int:
        """Return about how much memory it holds while it waits."""


T = TypeVar("T", bound=Begun)


def look_ahead(items: Iterator[T], *, max_running: int) -> Iterator[T]:
    """Yield items in their order, a few later than they were begun; a `SourceFault` comes after all that was before it.

    Args:
        items: beginning the next is asking for it.
        max_running: how much work may be under way; 0 begins each item when it is asked for.
    """
    waiting: deque[T] = deque()
    running, held, fault, is_over = 0, 0, None, False
    while True:
        while not is_over and (not waiting or _has_room(len(waiting), running, held, max_running)):
            try:
                item = next(items)
            except StopIteration:
                is_over = True
            except SourceFault as raised:
                is_over, fault = True, raised
            else:
                waiting.append(item)
                running, held = running + item.num_running, held + item.held_bytes
        if not waiting:
            break
        item = waiting.popleft()
        running, held = running - item.num_running, held - item.held_bytes
        yield item
    if fault is not None:
        raise fault


def _has_room(num_waiting: int, running: int, held: int, max_running: int) -> bool:
    return running < max_running and num_waiting < _MAX_WAITING and held < _MAX_BYTES
