"""What is nearly the same: pictures that look alike, and examples that differ only in case, spaces or accents' forms.

No pair is compared that has nothing in common. A picture's likeness is the difference hash of its thumbnail (8 x 8 mean
grey levels, each compared with its right and its lower neighbour: 112 bits); pictures whose hashes share one of four
bands of 32 bits stand side by side when sorted by that band, and are compared by their thumbnails. On 1,500 scans of
handwritten digits, and on 60 pages and 60 receipts of random text, no two were called alike; saved anew as JPEG (quality
60) or WEBP (80), they are known again.

At 32 pixels two invoices of one form are the same picture, so only images about which the same is asked and answered are
compared.
"""

import unicodedata
from array import array
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np
import numpy.typing as npt

from ingest.images import THUMBNAIL_SIDE_PX

_THUMBNAIL_BYTES = THUMBNAIL_SIDE_PX**2
_CELLS = 8
_HASH_BYTES = 16
_NUM_BANDS = 4
_BATCH = 1024  # thumbnails hashed at once: 4 MB as float32
_STEP = 2.0  # grey levels; smaller differences come and go with compression
_MIN_CONTRAST = 4.0  # standard deviation in grey levels; below, a picture has nothing to be recognised by
_MAX_DISTANCE = 4  # bits
_MAX_MEAN_DIFFERENCE = 0.05  # of thumbnails at mean 0 and deviation 1; different digits: 0.10, receipts: 0.07
_MAX_DIFFERENCE = 0.25  # of one of their 1,024 levels; saved anew: 0.11 at most, another digit on a display: 0.32
_NUM_NEIGHBOURS = 4  # compared with each in the order of a band: bounds the time when thousands look alike


class AlikeImages:
    """Takes the thumbnails of images; memory holds 8 bytes for each, the thumbnails lie in a temporary file."""

    def __init__(self, thumbnails: IO[bytes]) -> None:
        self._thumbnails = thumbnails
        self._numbers = array("Q")

    def add(self, number: int, thumbnail: bytes) -> None:
        """Take the thumbnail of an image."""
        self._numbers.append(number)
        self._thumbnails.write(thumbnail)

    def pairs(self, is_wanted: Callable[[int, int], bool]) -> list[tuple[int, int]]:
        """Return the numbers of images that look alike, the later one first.

        Each is there with its earliest that was found, and with as many others as it takes to join all that hang
        together. An image without contrast looks like nothing else.

        Args:
            is_wanted: whether two images, by their numbers, may be compared at all.
        """
        places, hashes = self._hashed()
        chains = Chains()
        for one, other in (pair for band in range(_NUM_BANDS) for pair in _close(hashes, band)):
            later, earlier = places[one], places[other]
            if not chains.is_news(later, earlier):
                continue
            if is_wanted(self._numbers[later], self._numbers[earlier]) and self._look_alike(later, earlier):
                chains.add(later, earlier)
        return [(self._numbers[later], self._numbers[earlier]) for later, earlier in chains.links()]

    def _hashed(self) -> tuple[list[int], npt.NDArray[np.uint32]]:
        """Return the places of the thumbnails that have contrast, and their hashes."""
        self._thumbnails.seek(0)
        places, hashes = [np.empty(0, np.int64)], [np.empty((0, _NUM_BANDS), np.uint32)]
        for start in range(0, len(self._numbers), _BATCH):
            chunk = np.frombuffer(self._thumbnails.read(_BATCH * _THUMBNAIL_BYTES), np.uint8)
            levels = chunk.reshape(-1, THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX).astype(np.float32)
            kept = np.flatnonzero(levels.std(axis=(1, 2)) >= _MIN_CONTRAST)
            places.append(kept + start)
            hashes.append(_difference_hashes(levels[kept]))
        return np.concatenate(places).tolist(), np.concatenate(hashes)

    def _look_alike(self, one: int, other: int) -> bool:
        difference = np.abs(self._levels(one) - self._levels(other))
        return bool(difference.mean() <= _MAX_MEAN_DIFFERENCE and difference.max() <= _MAX_DIFFERENCE)

    def _levels(self, at: int) -> npt.NDArray[np.float32]:
        """Return a thumbnail at mean 0 and deviation 1, so that brightness and contrast do not count."""
        self._thumbnails.seek(at * _THUMBNAIL_BYTES)
        levels = np.frombuffer(self._thumbnails.read(_THUMBNAIL_BYTES), np.uint8).astype(np.float32)
        normal: npt.NDArray[np.float32] = (levels - levels.mean()) / levels.std()
        return normal


class Chains:
    """Things of which some are alike, and so hang together over others."""

    def __init__(self) -> None:
        self._heads: dict[int, int] = {}
        self._earliest: dict[int, int] = {}
        self._joints: set[tuple[int, int]] = set()

    def is_news(self, later: int, earlier: int) -> bool:
        """Tell whether this pair would join two chains, or be the earliest of the later one."""
        return earlier < self._earliest.get(later, later) or self._head(later) != self._head(earlier)

    def add(self, later: int, earlier: int) -> None:
        """Take a pair that is alike."""
        one, other = sorted((self._head(later), self._head(earlier)))
        if one != other:
            self._heads[other] = one
            self._joints.add((later, earlier))
        self._earliest[later] = min(earlier, self._earliest.get(later, earlier))

    def links(self) -> list[tuple[int, int]]:
        """Return each with its earliest, and the pairs that join the chains."""
        return sorted(self._joints | set(self._earliest.items()))

    def _head(self, number: int) -> int:
        while (above := self._heads.get(number, number)) != number:
            self._heads[number] = self._heads.get(above, above)
            number = above
        return number


class AlikeTexts:
    """Takes examples; memory holds 16 bytes for each."""

    def __init__(self) -> None:
        self._contents = array("Q")
        self._folded = array("Q")

    def add(self, content: bytes, folded: bytes) -> None:
        """Take the hash of an example as it is, and that of its folded form."""
        self._contents.append(int.from_bytes(content[:8], "little"))
        self._folded.append(int.from_bytes(folded[:8], "little"))

    def pairs(self) -> list[tuple[int, int]]:
        """Return the numbers of examples that are the same once folded but not as they are, the later one first."""
        folded = np.frombuffer(self._folded, np.uint64)
        order = np.argsort(folded, kind="stable")
        again = (
            np.flatnonzero(folded[order[1:]] == folded[order[:-1]]) + 1
        )  # places in the order that repeat the one before
        runs = np.split(again, np.flatnonzero(np.diff(again) > 1) + 1) if len(again) else []
        return sorted(pair for run in runs for pair in self._new_forms(order[run[0] - 1 : run[-1] + 1].tolist()))

    def _new_forms(self, same: list[int]) -> Iterator[tuple[int, int]]:
        seen = {self._contents[same[0]]}
        for number in same[1:]:
            if self._contents[number] not in seen:
                seen.add(self._contents[number])
                yield number, same[0]


def fold(text: str) -> str:
    """Return a text without what the eye passes over: case, runs of white space, how an accent is put together."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _difference_hashes(levels: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Return the hashes of N thumbnails (N, side, side) as (N, bands)."""
    side = THUMBNAIL_SIDE_PX // _CELLS
    cells = levels.reshape(len(levels), _CELLS, side, _CELLS, side).mean((2, 4))
    right, down = cells[:, :, 1:] > cells[:, :, :-1] + _STEP, cells[:, 1:] > cells[:, :-1] + _STEP
    bits = np.concatenate([each.reshape(len(levels), _CELLS * (_CELLS - 1)) for each in (right, down)], axis=1)
    packed = np.packbits(bits, axis=1)
    return np.pad(packed, ((0, 0), (0, _HASH_BYTES - packed.shape[1]))).view(np.uint32)


def _close(hashes: npt.NDArray[np.uint32], band: int) -> Iterator[tuple[int, int]]:
    """Yield the places of hashes that share a band, differ in few bits, and are neighbours in the order of the band."""
    others = [hashes[:, other] for other in range(_NUM_BANDS) if other != band]
    order = np.lexsort([*others, hashes[:, band]])
    for step in range(1, _NUM_NEIGHBOURS + 1):
        one, other = order[:-step], order[step:]
        alike = hashes[one, band] == hashes[other, band]
        one, other = one[alike], other[alike]
        distance = np.bitwise_count(hashes[one] ^ hashes[other]).sum(axis=1)
        few = distance <= _MAX_DISTANCE
        for pair in zip(one[few].tolist(), other[few].tolist(), strict=True):
            yield max(pair), min(pair)
