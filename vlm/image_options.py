"""How pictures are cut for a base: what a caller may choose, and how it is set on a processor. Torch-free."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from core.errors import FailureCode, WorkFailed
from vlm.cutting import GRID, Cutting


class ImageOptions(BaseModel):
    """How pictures are cut before the model sees them; unset values keep the base model's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    longest_edge: int | None = Field(
        None,
        ge=32,
        le=4096,
        description="pixels; every picture is scaled to it, up or down: with split, more is more tiles",
    )
    split: bool | None = Field(None, description="cut large pictures into tiles (more image tokens, finer detail)")


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
    cutting = Cutting.of(processor)
    if not cutting.is_within_grid:
        raise WorkFailed(
            FailureCode.BASE_MODEL,
            f"This base model knows {GRID} x {GRID} tiles of {cutting.tile_px} pixels, and image.longest_edge is "
            f"{cutting.longest_edge_px}.",
            remedy=f"Set image.longest_edge to {cutting.max_longest_edge_px} or less, or image.split to false.",
        )


def document(processor: Any) -> dict[str, Any]:
    """Return the image settings in force as JSON."""
    cutting = Cutting.of(processor)
    return {
        "longest_edge": cutting.longest_edge_px,
        "split": cutting.is_split,
        "tile_px": cutting.tile_px,
        "image_tokens_per_tile": cutting.tokens_per_tile,
    }
