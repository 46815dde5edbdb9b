"""What is known of every stored image, in arrays: its sides, its size, and the first good row that shows it."""

from array import array
from collections.abc import Iterator
from pathlib import Path

from ingest.images import VerifiedImage

_NOBODY = -1


class Pictures:
    """The stored images in the order of their first sight. An image that no good row shows is not part of the data set."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._long_sides_px = array("I")
        self._short_sides_px = array("I")
        self._sizes_bytes = array("Q")
        self._first_users = array("q")

    def add(self, image: VerifiedImage) -> None:
        """Take an image that was just stored."""
        self._numbers[bytes.fromhex(image.sha256)] = len(self._first_users)
        self._long_sides_px.append(max(image.width_px, image.height_px))
        self._short_sides_px.append(min(image.width_px, image.height_px))
        self._sizes_bytes.append(len(image.data))
        self._first_users.append(_NOBODY)

    def use(self, sha256: str, *, example: int) -> None:
        """Note that a good row, the `example`-th, shows an image."""
        number = self._numbers[bytes.fromhex(sha256)]
        if self._first_users[number] == _NOBODY:
            self._first_users[number] = example

    @property
    def long_sides_px(self) -> list[int]:
        """Return the longer side of each image of a good row."""
        return [self._long_sides_px[number] for number in self._used()]

    @property
    def short_sides_px(self) -> list[int]:
        """Return the shorter side of each image of a good row."""
        return [self._short_sides_px[number] for number in self._used()]

    @property
    def stored_bytes(self) -> int:
        """Return the size of all images of good rows."""
        return sum(self._sizes_bytes[number] for number in self._used())

    def delete_unused(self, folder: Path) -> None:
        """Delete the images that no good row shows."""
        for sha256, number in self._numbers.items():
            if self._first_users[number] == _NOBODY:
                (folder / sha256.hex()).unlink()

    def _used(self) -> Iterator[int]:
        return (number for number, user in enumerate(self._first_users) if user != _NOBODY)
