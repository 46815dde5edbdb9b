"""What is known of every stored image, in arrays: its sides, its size, its likeness, and the good rows that show it."""

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from ingest.images import VerifiedImage
from ingest.likeness import AlikeImages
from ingest.pack import Entry
from vlm.conversation import Split

_NOBODY = -1
_SIDES: dict[Split, int] = {"train": 1, "validation": 2}
_BOTH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookalike:
    """An image that looks like that of an earlier example. `is_leak`: only the one is trained on, only the other not."""

    sha256: str
    earlier_sha256: str
    example: int
    earlier: int
    pointer: str
    is_leak: bool


class Pictures:
    """The stored images, in the order in which they lie in the pack. An image that no good row shows is not part of the data set."""

    def __init__(self, thumbnails: IO[bytes]) -> None:
        self._alike = AlikeImages(thumbnails)
        self._numbers: dict[bytes, int] = {}
        self._long_sides_px = array("I")
        self._short_sides_px = array("I")
        self._are_upright = bytearray()
        self._sizes_bytes = array("Q")
        self._first_users = array("q")
        self._pointers = array("I")
        self._known_pointers: dict[str, int] = {}
        self._sides = bytearray()

    def __contains__(self, sha256: str) -> bool:
        """Tell whether an image was stored already."""
        return bytes.fromhex(sha256) in self._numbers

    def add(self, image: VerifiedImage) -> None:
        """Take an image that was just stored."""
        self._alike.add(len(self._first_users), image.thumbnail)
        self._numbers[bytes.fromhex(image.sha256)] = len(self._first_users)
        self._long_sides_px.append(max(image.width_px, image.height_px))
        self._short_sides_px.append(min(image.width_px, image.height_px))
        self._are_upright.append(image.height_px > image.width_px)
        self._sizes_bytes.append(len(image.data))
        self._first_users.append(_NOBODY)
        self._pointers.append(0)
        self._sides.append(0)

    def sides_px(self, sha256: str) -> tuple[int, int]:
        """Return (height, width) of a stored image."""
        number = self._numbers[bytes.fromhex(sha256)]
        short, long = self._short_sides_px[number], self._long_sides_px[number]
        return (long, short) if self._are_upright[number] else (short, long)

    def use(self, sha256: str, *, example: int, pointer: str, split: Split) -> None:
        """Note that a good row, the `example`-th, shows an image."""
        number = self._numbers[bytes.fromhex(sha256)]
        self._sides[number] |= _SIDES[split]
        if self._first_users[number] == _NOBODY:
            self._first_users[number] = example
            self._pointers[number] = self._known_pointers.setdefault(pointer, len(self._known_pointers))

    def lookalikes(self, say_the_same: Callable[[int, int], bool]) -> list[Lookalike]:
        """Return the pairs of images of different examples that look alike, in the order of the later example.

        Args:
            say_the_same: whether two examples, by their numbers, ask and answer the same.
        """
        names, pointers = list(self._numbers), list(self._known_pointers)

        def is_wanted(one: int, other: int) -> bool:
            users = self._first_users[one], self._first_users[other]
            return _NOBODY not in users and users[0] != users[1] and say_the_same(*users)

        found = []
        for pair in self._alike.pairs(is_wanted):
            one, other = sorted(pair, key=lambda number: self._first_users[number])
            found.append(
                Lookalike(
                    sha256=names[other].hex(),
                    earlier_sha256=names[one].hex(),
                    example=self._first_users[other],
                    earlier=self._first_users[one],
                    pointer=pointers[self._pointers[other]],
                    is_leak=self._sides[one] | self._sides[other] == _BOTH
                    and _BOTH not in (self._sides[one], self._sides[other]),
                )
            )
        return sorted(found, key=lambda pair: (pair.example, pair.earlier))

    @property
    def long_sides_px(self) -> list[int]:
        """Return the longer side of each image of a good row."""
        return [self._long_sides_px[number] for number in self._used()]

    @property
    def short_sides_px(self) -> list[int]:
        """Return the shorter side of each image of a good row."""
        return [self._short_sides_px[number] for number in self._used()]

    @property
    def used_sides_px(self) -> Iterator[tuple[int, int]]:
        """Yield (height, width) of each image of a good row."""
        names = list(self._numbers)
        return (self.sides_px(names[number].hex()) for number in self._used())

    @property
    def stored_bytes(self) -> int:
        """Return the size of all images of good rows."""
        return sum(self._sizes_bytes[number] for number in self._used())

    def entries(self) -> Iterator[Entry]:
        """Yield each image of a good row, and where in the pack it lies."""
        start = 0
        for sha256, size_bytes, user in zip(self._numbers, self._sizes_bytes, self._first_users, strict=True):
            if user != _NOBODY:
                yield sha256, start, size_bytes
            start += size_bytes

    def _used(self) -> Iterator[int]:
        return (number for number, user in enumerate(self._first_users) if user != _NOBODY)
