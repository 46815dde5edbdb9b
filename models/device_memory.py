"""Memory of a device that work shares: what running work was promised of it, and what that leaves to more work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What running work may hold of a device, in bytes; `pid` is the worker's that runs it."""

    pid: int
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What one more piece of work may hold of a device.

    Attributes:
        beside_bytes: As things stand: free, and promised to nobody.
        alone_bytes: When all other runs have ended. What they hold does not count, so two runs that are
            alike see the same.
    """

    beside_bytes: int
    alone_bytes: int

    @classmethod
    def of(cls, free_bytes: int, promises: Sequence[Promise], held: Sequence[int]) -> "Room":
        """Return the room on a device with so much free, where each promise is held in part already."""
        owed = sum(max(0, each.memory_bytes - has) for each, has in zip(promises, held, strict=True))
        return cls(beside_bytes=max(0, free_bytes - owed), alone_bytes=free_bytes + sum(held))

    def less(self, num_bytes: int) -> "Room":
        """Return what is left when something is taken from it."""
        return Room(
            beside_bytes=max(0, self.beside_bytes - num_bytes), alone_bytes=max(0, self.alone_bytes - num_bytes)
        )


Headroom = Callable[[Sequence[Promise]], Room | None]


def unbounded(_promises: Sequence[Promise]) -> None:
    """Tell that nobody knows how much memory there is."""
