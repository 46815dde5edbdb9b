"""How large the examples and the images of a run are, for its memory plan."""

from collections.abc import Mapping, Sequence

from training.encoding import Encoder
from training.passes import ImageSize, Size, Sizes
from training.sampler import epoch_order
from training.settings import Schedule
from vlm.conversation import Example
from vlm.measure import Measure

Split = tuple[Sequence[Example], Sequence[Measure]]


def sizes_of(train: Split, validation: Split, *, images: Mapping[str, int], encoder: Encoder) -> Sizes:
    """Return the sizes of a run.

    Args:
        train: Its examples and their measures.
        validation: Likewise.
        images: Tokens of each distinct image that it needs, by sha256, in the order in which it looks at them.
        encoder: That cuts the images.
    """
    tiles = {name: encoder.image_tiles(name) for name in images}

    def size(example: Example, measure: Measure) -> Size:
        shown = sum(tiles.get(name, 0) for name in example.images)
        return Size(tokens=measure.tokens, labelled_tokens=measure.labelled_tokens, tiles=shown)

    return Sizes(
        train=[size(*each) for each in zip(*train, strict=True)],
        validation=[size(*each) for each in zip(*validation, strict=True)],
        images=[ImageSize(tiles=tiles[name], tokens=tokens) for name, tokens in images.items()],
        distinct_tokens=encoder.num_distinct_tokens,
    )


def images_of_run(
    train: Sequence[Example], validation: Sequence[Example], schedule: Schedule, *, seed: int, encoder: Encoder
) -> dict[str, int]:
    """Return the tokens of every image that a run needs, by sha256, in the order in which it looks at them."""
    examples = [*_examples_of_run(train, schedule, seed=seed), *validation]
    return {name: encoder.image_tokens(name) for example in examples for name in example.images}


def _examples_of_run(train: Sequence[Example], schedule: Schedule, *, seed: int) -> list[Example]:
    """Return the examples that the run will take: of less than an epoch, only those of its steps."""
    if schedule.total_steps >= schedule.steps_per_epoch:
        return list(train)
    order = epoch_order(schedule.num_examples, seed=seed, epoch=0)
    return [train[row] for row in order[: schedule.total_steps * schedule.batch_size]]
