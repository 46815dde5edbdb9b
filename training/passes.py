"""What goes through the model together in a run, in numbers: the passes of its steps. Torch-free."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from training.batching import Budget, MicroBatch, padded_tokens, plan, row_tokens

TOWER_TOKENS = 1024  # image tokens that go through the tower together when features are kept: 16 tiles of 64

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSize:
    """One image: into how many tiles it is cut, and how many tokens it becomes, structural ones included."""

    tiles: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One example.

    Attributes:
        tokens: Those of its images included.
        labelled_tokens: Those that carry loss.
        tiles: Of all its images.
    """

    tokens: int
    labelled_tokens: int
    tiles: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """All examples and images of a run.

    Attributes:
        images: Each distinct one, in the order in which the run looks at them; of very many, some.
        distinct_tokens: How many different tokens the texts have; None when nobody knows.
        num_tiles: Of all images; None: of those in `images`.
    """

    train: Sequence[Size]
    validation: Sequence[Size]
    images: Sequence[ImageSize]
    distinct_tokens: int | None = None
    num_tiles: int | None = None

    @property
    def all_tiles(self) -> int:
        """Return the tiles of all images."""
        return sum(image.tiles for image in self.images) if self.num_tiles is None else self.num_tiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward pass.

    Attributes:
        rows: Of the batch.
        row_tokens: Of the longest row; the others are padded to it.
        is_masked: Whether attention needs a mask of its own: rows are padded, or several examples lie in one.
        labelled_tokens: In all rows.
        tiles: Of all images.
    """

    rows: int
    row_tokens: int
    is_masked: bool
    labelled_tokens: int
    tiles: int

    @property
    def tokens(self) -> int:
        """Return the tokens that go through the model, padding included."""
        return self.rows * self.row_tokens


def passes_of(steps: Iterable[Sequence[int]], sizes: Sequence[Size], budget: Budget) -> Iterator[Pass]:
    """Yield the passes of optimizer steps, each the numbers of its examples."""
    lengths = [size.tokens for size in sizes]
    for examples in steps:
        for micro_batch in plan(examples, lengths, budget):
            yield _pass(micro_batch, sizes, lengths)


def _pass(micro_batch: MicroBatch, sizes: Sequence[Size], lengths: Sequence[int]) -> Pass:
    examples = [sizes[example] for row in micro_batch for example in row]
    widths = [row_tokens(row, lengths) for row in micro_batch]
    return Pass(
        rows=len(micro_batch),
        row_tokens=padded_tokens(micro_batch, lengths) // len(micro_batch),
        is_masked=len(examples) > len(micro_batch) or min(widths) < max(widths),
        labelled_tokens=sum(each.labelled_tokens for each in examples),
        tiles=sum(each.tiles for each in examples),
    )


def tower_passes(images: Iterable[T], tokens: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield the images that go through the tower together when features are kept, in their order.

    Args:
        images: Each distinct one.
        tokens: How many an image becomes, structural ones included.
    """
    some: list[T] = []
    for image in images:
        if some and sum(map(tokens, some)) + tokens(image) > TOWER_TOKENS:
            yield some
            some = []
        some.append(image)
    if some:
        yield some
