"""How pictures are cut for a base: what a caller may choose, and how it is set on a processor. Torch-free."""

import copy
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from core.errors import FailureCode, WorkFailed
from vlm.cutting import GRID, MAX_SIDE_PX, UPSCALE, Cutting

MIN_EDGE_PX = 32


class ImageOptions(BaseModel):
    """How pictures are cut before the model sees them; unset values keep the base model's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    longest_edge: int | None = Field(
        None,
        ge=MIN_EDGE_PX,
        le=MAX_SIDE_PX,
        description="pixels; every picture is scaled to it (up only with upscale): with split, more is more tiles",
    )
    split: bool | None = Field(None, description="cut large pictures into tiles (more image tokens, finer detail)")
    upscale: bool | None = Field(
        None,
        description="false: with split, a small picture is only scaled up until it fills the tiles that it needs, at 512 px "
        "100 x 100 to one tile instead of 17; fewer tokens, but not what the base model was trained on. Unset keeps the "
        "base model's own, for SmolVLM true",
    )


def apply(options: ImageOptions, processor: Any) -> None:
    """Set the image options on the base model's processor; unset ones keep what the base came with.

    The processor is saved with the adapter, so that serving cuts images exactly as training did.

    Raises:
        WorkFailed: Images could become more tiles than there are tokens for; the rest would be written as plain text.
    """
    cutter = processor.image_processor
    if options.longest_edge is not None:
        cutter.size = type(cutter.size)(longest_edge=options.longest_edge)
    if options.split is not None:
        cutter.do_image_splitting = options.split
    if options.upscale is False:
        setattr(cutter, UPSCALE, False)
    elif options.upscale and hasattr(cutter, UPSCALE):
        delattr(cutter, UPSCALE)  # so that what is cut alike has one digest
    cutting = Cutting.of(processor)
    if not cutting.is_within_grid:
        raise WorkFailed(
            FailureCode.BASE_MODEL,
            f"This base model knows {GRID} x {GRID} tiles of {cutting.tile_px} pixels, and image.longest_edge is "
            f"{cutting.longest_edge_px}.",
            remedy=f"Set image.longest_edge to {cutting.max_longest_edge_px} or less, or image.split to false.",
        )


def with_options(processor: Any, options: ImageOptions) -> Any:
    """Return a copy of the processor with these options, and leave it as it is; tokenizer and template are shared.

    Raises:
        WorkFailed: The base cannot cut images like this.
    """
    own = copy.copy(processor)
    own.image_processor = copy.deepcopy(processor.image_processor)
    apply(options, own)
    return own


def document(processor: Any) -> dict[str, Any]:
    """Return the image settings in force as JSON."""
    cutting = Cutting.of(processor)
    return {
        "longest_edge": cutting.longest_edge_px,
        "split": cutting.is_split,
        "upscale": cutting.is_upscaled,
        "tile_px": cutting.tile_px,
        "image_tokens_per_tile": cutting.tokens_per_tile,
    }
