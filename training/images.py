"""Pictures of a data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from core.errors import FailureCode, WorkFailed
from vlm.conversation import IMAGES_FOLDER


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
            try:
                return image.convert("RGB")
            except (
                OSError,
                SyntaxError,
                ValueError,
            ) as error:  # what Pillow says of damage; it was whole when it came in
                raise _unreadable(sha256) from error

    def size(self, sha256: str) -> tuple[int, int]:
        """Return (height, width) in pixels; reads the header only."""
        with self._open(sha256) as image:
            return image.height, image.width

    def _open(self, sha256: str) -> Image.Image:
        try:
            return Image.open(self.dataset_dir / IMAGES_FOLDER / sha256)
        except OSError as error:
            raise _unreadable(sha256) from error


def _unreadable(sha256: str) -> WorkFailed:
    return WorkFailed(
        FailureCode.STORAGE,
        f"Image {sha256} of the data set cannot be read.",
        remedy="Retry the job; if it fails again, upload the data set anew.",
        retryable=True,
    )
