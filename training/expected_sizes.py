"""The sizes of a run before a row of it is read: from the histogram of its data set and the blueprint of its base. Torch-free."""

import random
from collections.abc import Iterable, Mapping

from training.passes import ImageSize, Size, Sizes
from vlm.conversation import Split
from vlm.cutting import Cutting
from vlm.size_histogram import ExampleGroup, SizeHistogram

_MOST_EXAMPLES = 400  # of a split that are laid out; of more, each group has its share, and one at least
_MOST_IMAGES = 2000  # likewise
_ORDER_SEED = 0  # of the order in which groups come together; a run has another


def expected_sizes(
    histogram: SizeHistogram, cutting: Cutting, splits: Mapping[Split, int], *, seen: float = 1.0
) -> Sizes:
    """Return about what the examples and images of a run come to.

    Args:
        histogram: Of the data set.
        cutting: How the base cuts images for this run.
        splits: How many examples each split has; all are of the same kinds, because they are dealt at random.
        seen: The share of the examples to train on that the run takes: less than an epoch's, or all.
    """
    train, validation = (splits.get(split, 0) for split in ("train", "validation"))
    shown = (seen * train + validation) / max(1, train + validation)
    groups = [(_size(group, cutting), group.count) for group in histogram.examples]
    images = []
    share = min(1.0, _MOST_IMAGES / max(1, sum(group.count for group in histogram.images)))
    for group in histogram.images:
        tiles, tokens = cutting.num_tiles(*group.sides_px), cutting.num_tokens(*group.sides_px)
        images += [ImageSize(tiles=tiles, tokens=tokens)] * max(1, round(group.count * share))
    return Sizes(
        train=_laid_out(groups, splits.get("train", 0)),
        validation=_laid_out(groups, splits.get("validation", 0)),
        images=images,
        num_tiles=round(shown * sum(group.count * cutting.num_tiles(*group.sides_px) for group in histogram.images)),
    )


def _size(group: ExampleGroup, cutting: Cutting) -> Size:
    image_tokens = sum(cutting.num_tokens(*sides) for sides in group.images_px)
    return Size(
        tokens=group.text_tokens + image_tokens,
        labelled_tokens=group.answer_tokens,
        tiles=sum(cutting.num_tiles(*sides) for sides in group.images_px),
    )


def _laid_out(groups: Iterable[tuple[Size, int]], num_examples: int) -> list[Size]:
    """Return so many examples in any order, each group as often as its share says, and at least once."""
    groups = list(groups)
    wanted = min(num_examples, _MOST_EXAMPLES)
    total = sum(count for _, count in groups)
    laid = [size for size, count in groups for _ in range(max(1, round(wanted * count / total)))] if wanted else []
    random.Random(_ORDER_SEED).shuffle(laid)  # noqa: S311 - an order, no secret
    return laid
