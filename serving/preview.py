"""One row as training would take it: the rendered chat, its tokens with their loss, the tiles of its images.

Tokens, labels and tiles come from `training.encoding.Encoder`, the one that makes the batches of a run; nothing of it is
done anew here.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from core.errors import Invalid, WorkFailed
from serving.image_options import with_options
from serving.wire import Grid, ImageCut, Previewed, PreviewRequest, Tile, TokenRun
from training import checks
from training.encoding import Encoded, Encoder
from training.images import ImageFolder
from vlm.conversation import Example
from vlm.family import Pixels
from vlm.labels import IGNORED
from vlm.loading import LoadedProcessor
from vlm.measure import ImageRefused, Measure, TemplateRefused
from vlm.ruler import Limits

MAX_RUNS = 32_768  # of tokens; the longest context of the catalogue is 16,384
MAX_TILES = 200  # more than fit into any context of the catalogue; 1 GB as tensors, and training refuses the row anyway
MAX_IMAGE_TOKENS = 32_768  # the same for images that are not cut: 0.6 GB of patches
MAX_TILES_SHOWN = 64
TILE_SIDE_PX = 192  # of a tile as it is shown; about 4 KB each
_QUALITY = 85
_MAX_PIECES = 8  # of one character; UTF-8 needs four
_UNFINISHED = "\ufffd"  # what a tokenizer decodes the first bytes of a character to


def preview(base: LoadedProcessor, request: PreviewRequest, folder: Path) -> Previewed:
    """Return what the model sees of a row.

    Args:
        base: What the row would be trained with; not changed.
        request: The row, and the image options of the job.
        folder: Holds the row's images as a data set's folder does.

    Raises:
        Invalid: The image options do not fit the base, or the chat template does not take the row.
        WorkFailed: `bad_data`, when the row holds what no row may.
    """
    base = with_options(base, request.image)
    row = request.row
    names = tuple(image.sha256 for image in row.images)
    example = Example(row=row.number, split="train", messages=row.messages, images=names)
    limits = Limits.of(base)
    checks.check_text(example, limits.reserved)
    try:
        return _Look(base, ImageFolder(folder), limits).at(example)
    except TemplateRefused as error:
        raise Invalid(f"The base model's chat template does not take this row: {error}.") from error
    except ImageRefused as error:
        raise Invalid(f"The base model does not take this row: {error}.") from error


class _Look:
    """A base model's eye on the pictures of a folder."""

    def __init__(self, base: LoadedProcessor, pictures: ImageFolder, limits: Limits) -> None:
        self._base = base
        self._processor: Any = base.processor
        self._pictures = pictures
        self._limits = limits
        self._encoder = Encoder(base.processor, base.family, pictures)
        self._rule = base.family.image_rule(base.processor)

    def at(self, example: Example) -> Previewed:
        """Return what is seen of an example."""
        measure = self._encoder.measure(example)
        sizes = [self._pictures.size(name) for name in example.images]
        num_tiles = sum(self._rule.num_tiles(*size) for size in sizes)
        is_shown = num_tiles <= MAX_TILES and measure.image_tokens <= MAX_IMAGE_TOKENS
        encoded = self._encoder.encode(example) if is_shown else None
        pixels = [self._encoder.pixels(name) for name in example.images] if is_shown else None
        runs = [] if encoded is None else self._runs(encoded)
        return Previewed(
            text=self._encoder.render(example.messages),
            tokens=tuple(runs[:MAX_RUNS]),
            num_tokens=measure.tokens,
            num_image_tokens=measure.image_tokens,
            num_learned_tokens=measure.labelled_tokens,
            context_tokens=self._limits.context_tokens,
            fits=measure.tokens <= self._limits.context_tokens,
            refusal=_refusal(example, measure, self._limits),
            images=tuple(self._cuts(sizes, pixels)),
            is_shortened=encoded is None or len(runs) > MAX_RUNS or num_tiles > MAX_TILES_SHOWN,
            image=self._base.family.image_settings(self._processor),
            base_revision=self._base.revision,
        )

    def _runs(self, encoded: Encoded) -> list[TokenRun]:
        image_id = self._base.family.image_token_id(self._processor.tokenizer)
        runs: list[TokenRun] = []
        texts = pieces(encoded.input_ids, self._processor.tokenizer)
        for token, label, text in zip(encoded.input_ids, encoded.labels, texts, strict=True):
            if runs and token == image_id == runs[-1].id:
                runs[-1] = runs[-1].model_copy(update={"count": runs[-1].count + 1})
            else:
                runs.append(TokenRun(id=token, text=text, learned=label != IGNORED, count=1))
        return runs

    def _cuts(self, sizes: Sequence[tuple[int, int]], pixels: Sequence[Pixels] | None) -> Iterator[ImageCut]:
        """Yield one image after the other, its tiles row by row, the whole at last."""
        at = 0
        for image, (height, width) in enumerate(sizes):
            rows, columns = self._rule.grid(height, width)
            num_tiles = self._rule.num_tiles(height, width)
            places = [Grid(row=r, column=c) for r in range(1, rows + 1) for c in range(1, columns + 1)]
            shown = [*places, None][: max(0, MAX_TILES_SHOWN - at)]
            pictures = iter(()) if pixels is None else self._base.family.pictures(self._processor, pixels[image])
            yield ImageCut(
                width_px=width,
                height_px=height,
                rows=rows,
                columns=columns,
                num_tiles=num_tiles,
                num_tokens=self._rule.num_tokens(height, width),
                tiles=tuple(
                    Tile(place=place, url=_data_url(picture)) for place, picture in zip(shown, pictures, strict=False)
                ),
            )
            at += num_tiles


def pieces(ids: Sequence[int], tokenizer: Any) -> Iterator[str]:
    """Yield the text of each token; joined, they are the text of all.

    A byte-level tokenizer writes some characters as several tokens: the last of them has the character, the others are
    empty.
    """
    held: list[int] = []
    for index, token in enumerate(ids, start=1):
        held.append(token)
        text = str(tokenizer.decode(held, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        if text.endswith(_UNFINISHED) and len(held) < _MAX_PIECES and index < len(ids):
            yield ""
            continue
        held = []
        yield text


def _refusal(example: Example, measure: Measure, limits: Limits) -> str | None:
    try:
        checks.check_size(example, measure, limits)
    except WorkFailed as error:
        return f"{error.detail} {error.remedy}"
    return None


def _data_url(picture: Image.Image) -> str:
    picture.thumbnail((TILE_SIDE_PX, TILE_SIDE_PX))
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
