"""How large the examples and the images of a run are, for its memory plan."""

from collections.abc import Mapping, Sequence

from training.encoding import Encoder
from training.passes import ImageSize, Size, Sizes
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
