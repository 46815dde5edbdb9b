"""Pictures of a data set, and how the base model's processor cuts them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from core.errors import FailureCode, WorkFailed
from training.spec import ImageOptions
from vlm.conversation import IMAGES_FOLDER
from vlm.cutting import GRID, Cutting


class ImageSource(Protocol):
    """The pictures of examples, by their sha256."""

    def open_rgb(self, sha256: str) -> Image.Image:
        """Return the picture, decoded, in RGB."""
        ...

    def size(self, sha256: str) -> tuple[int, int]:
        """Return (height, width) in pixels; reads the header only."""
        ...


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """The pictures of one data set, named by the sha256 of their bytes."""

    dataset_dir: Path

    def open_rgb(self, sha256: str) -> Image.Image:
        """Return the picture, decoded, in RGB."""
        with self._open(sha256) as image:
            return image.convert("RGB")

    def size(self, sha256: str) -> tuple[int, int]:
        """Return (height, width) in pixels; reads the header only."""
        with self._open(sha256) as image:
            return image.height, image.width

    def _open(self, sha256: str) -> Image.Image:
        try:
            return Image.open(self.dataset_dir / IMAGES_FOLDER / sha256)
        except OSError as error:
            raise WorkFailed(
                FailureCode.STORAGE,
                f"Image {sha256} of the data set cannot be read.",
                remedy="Retry the job; if it fails again, upload the data set anew.",
                retryable=True,
            ) from error


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
