"""How long the examples of a data set are for one base, by training's own measure: texts tokenized, images by their sides."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

from PIL import Image

from core.errors import WorkFailed
from core.storage import Storage
from serving.image_options import with_options
from serving.wire import RowPlace, Spread, TokenCounts
from training import checks
from training.encoding import Encoder
from vlm.conversation import Example
from vlm.image_options import ImageOptions
from vlm.loading import LoadedProcessor
from vlm.measure import ImageRefused, Measure, TemplateRefused
from vlm.ruler import Limits

MAX_ROWS_TOLD = 20


@dataclasses.dataclass(frozen=True, slots=True)
class StoredImages:
    """Images as they lie in storage, below one prefix."""

    storage: Storage
    prefix: str

    def open_rgb(self, sha256: str) -> Image.Image:
        """Return the picture, decoded, in RGB."""
        with self.storage.open(f"{self.prefix}/{sha256}") as stream, Image.open(stream) as image:
            return image.convert("RGB")

    def size(self, sha256: str) -> tuple[int, int]:
        """Return (height, width) in pixels; reads the header only."""
        with self.storage.open(f"{self.prefix}/{sha256}") as stream, Image.open(stream) as image:
            return image.height, image.width


def count_tokens(
    base: LoadedProcessor,
    examples: Iterable[Example],
    pictures: StoredImages,
    options: ImageOptions,
    *,
    check_time: Callable[[], None] = lambda: None,
) -> TokenCounts:
    """Return the spread of the examples' lengths, and which of them training would refuse.

    Args:
        base: What would be trained; not changed.
        examples: One after the other; only their measures are kept.
        pictures: The examples' images.
        options: The image options of the job.
        check_time: Called before each example; raises when nobody waits any more.

    Raises:
        Invalid: The image options do not fit the base.
    """
    base = with_options(base, options)
    encoder, limits = Encoder(base.processor, base.family, pictures), Limits.of(base)
    measured: list[tuple[RowPlace, Measure]] = []
    unreadable: list[RowPlace] = []
    for example in examples:
        check_time()
        place = RowPlace(file=example.file, row=example.row)
        try:
            checks.check_text(example, limits.reserved)
        except WorkFailed:
            unreadable.append(place)
            continue
        try:
            measured.append((place, encoder.measure(example)))
        except (TemplateRefused, ImageRefused):
            unreadable.append(place)
    return _counts(measured, unreadable, limits)


def _counts(
    measured: Sequence[tuple[RowPlace, Measure]], unreadable: Sequence[RowPlace], limits: Limits
) -> TokenCounts:
    measures = [measure for _, measure in measured]
    too_long = [place for place, measure in measured if measure.tokens > limits.context_tokens]
    nothing = [place for place, measure in measured if measure.labelled_tokens == 0]
    tokens = sum(measure.tokens for measure in measures)
    return TokenCounts(
        num_sampled=len(measures) + len(unreadable),
        context_tokens=limits.context_tokens,
        tokens=_spread([measure.tokens for measure in measures]),
        image_tokens=_spread([measure.image_tokens for measure in measures]),
        learned_ratio=sum(measure.labelled_tokens for measure in measures) / tokens if tokens else 0.0,
        num_too_long=len(too_long),
        too_long_rows=tuple(too_long[:MAX_ROWS_TOLD]),
        num_nothing_learned=len(nothing),
        nothing_learned_rows=tuple(nothing[:MAX_ROWS_TOLD]),
        num_unreadable=len(unreadable),
        unreadable_rows=tuple(unreadable[:MAX_ROWS_TOLD]),
    )


def _spread(values: Sequence[int]) -> Spread:
    """Return nearest-rank percentiles: each is the value of an example that there is."""
    ordered = sorted(values) or [0]
    return Spread(p50=_percentile(ordered, 50), p95=_percentile(ordered, 95), max=ordered[-1])


def _percentile(ordered: Sequence[int], percent: int) -> int:
    return ordered[math.ceil(percent * len(ordered) / 100) - 1]
