"""Counting how large the good rows are, for plans of memory and time; in little memory, whatever the number of rows."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ingest.drafts import Draft
from vlm.rough_tokens import MESSAGE_TOKENS, rough_tokens
from vlm.size_histogram import ExampleGroup, ImageGroup, Sides, SizeHistogram

SIZES_FILE = "sizes.json"
_MOST_GROUPS = 200
_MOST_COUNTED = 8 * _MOST_GROUPS  # groups that are told apart while rows are read
_MOST_SIDES = 8  # images of one row whose sides are told apart
_GRIDS_PX = (1, 16, 64, 128, 256, 512, 1024, 4096, 65_536)  # to which sides are rounded up, as far as it takes
_SHARES = (8, 8, 4, 4, 2, 2, 1, 1, 1)  # and tokens: to so many steps between one power of two and the next
_LAST_LEVEL = len(_GRIDS_PX) - 1
_ALIKE_LEVEL = (
    4  # from which on the images of a row are as many as the next power of two says, all as large as the largest
)


@dataclass(frozen=True, slots=True)
class _Size:
    images_px: tuple[Sides, ...]
    text_tokens: int
    answer_tokens: int

    def rounded(self, level: int) -> "_Size":
        sides = tuple(sorted(_rounded_sides(each, level) for each in self.images_px))
        if level >= _ALIKE_LEVEL:
            sides = (_largest(sides),) * (1 << (len(sides) - 1).bit_length()) if sides else ()
        return _Size(sides, _rounded(self.text_tokens, level), _rounded(self.answer_tokens, level))


class SizeTally:
    """Counts rows by their size; when there are too many sizes, it rounds them up."""

    def __init__(self) -> None:
        self._counts: Counter[_Size] = Counter()
        self._level = 0

    def add(self, draft: Draft, sides_px: Sequence[Sides]) -> None:
        """Count one good row, with the (height, width) of each of its images."""
        text = answers = 0
        for turn in draft.turns:
            tokens = rough_tokens(turn.text) + MESSAGE_TOKENS
            text += tokens
            if turn.answers and turn.weight:
                answers += tokens
        if len(sides_px) > _MOST_SIDES:
            sides_px = [_largest(sides_px)] * len(sides_px)
        self._counts[_Size(tuple(sides_px), text, answers).rounded(self._level)] += 1
        while len(self._counts) > _MOST_COUNTED and self._level < _LAST_LEVEL:
            self._level += 1
            self._counts = _merged(self._counts, self._level)

    def histogram(self, images_px: Iterable[Sides]) -> SizeHistogram:
        """Return all that was counted, with the (height, width) of each distinct image of a good row."""
        counts, level = self._counts, self._level
        while len(counts) > _MOST_GROUPS and level < _LAST_LEVEL:
            level += 1
            counts = _merged(counts, level)
        if len(counts) > _MOST_GROUPS:
            counts = _folded(counts)
        images, level = Counter(images_px), 0
        while len(images) > _MOST_GROUPS and level < _LAST_LEVEL:
            level += 1
            images = _merged_sides(images, level)
        return SizeHistogram(
            examples=tuple(
                ExampleGroup(
                    count=count,
                    images_px=size.images_px,
                    text_tokens=size.text_tokens,
                    answer_tokens=size.answer_tokens,
                )
                for size, count in counts.items()
            ),
            images=tuple(ImageGroup(count=count, sides_px=sides) for sides, count in images.items()),
        )


def _merged(counts: Counter[_Size], level: int) -> Counter[_Size]:
    merged: Counter[_Size] = Counter()
    for size, count in counts.items():
        merged[size.rounded(level)] += count
    return merged


def _folded(counts: Counter[_Size]) -> Counter[_Size]:
    """Return the most frequent sizes, and of all the others one that is as large as each of them."""
    kept = counts.most_common(_MOST_GROUPS - 1)
    rest = [size for size, _ in counts.most_common()[_MOST_GROUPS - 1 :]]
    shown = [size.images_px for size in rest if size.images_px]
    sides = (_largest([each for images in shown for each in images]),) * max(map(len, shown)) if shown else ()
    largest = _Size(sides, max(size.text_tokens for size in rest), max(size.answer_tokens for size in rest))
    folded = Counter(dict(kept))
    folded[largest] += sum(counts[size] for size in rest)
    return folded


def _largest(sides: Sequence[Sides]) -> Sides:
    return max(each[0] for each in sides), max(each[1] for each in sides)


def _merged_sides(counts: Counter[Sides], level: int) -> Counter[Sides]:
    merged: Counter[Sides] = Counter()
    for sides, count in counts.items():
        merged[_rounded_sides(sides, level)] += count
    return merged


def _rounded_sides(sides: Sides, level: int) -> Sides:
    grid = _GRIDS_PX[level]
    height, width = (-(-side // grid) * grid for side in sides)
    return height, width


def _rounded(tokens: int, level: int) -> int:
    """Round up to few numbers, further apart the larger they are."""
    step = max(1, (1 << max(0, tokens.bit_length() - 1)) // _SHARES[level])
    return -(-tokens // step) * step
