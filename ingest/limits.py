"""How much of everything one data set may hold; the defaults suit one machine, a spec may say otherwise."""

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024
GIB = 1024 * MIB


class Limits(BaseModel):
    """The bounds that keep a hostile or a mistaken upload from filling memory or disk."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_members: int = Field(200_000, ge=1, description="files in one archive")
    max_directory_bytes: int = Field(
        64 * MIB, ge=1, description="central directory of a zip, read before anything else"
    )
    max_total_bytes: int = Field(32 * GIB, ge=1, description="bytes after inflating, and bytes of stored images")
    max_ratio: float = Field(100.0, ge=1, description="inflated over packed; looked at above `ratio_floor_bytes`")
    ratio_floor_bytes: int = Field(64 * MIB, ge=0, description="below this nothing counts as a bomb")
    max_line_bytes: int = Field(144 * MIB, ge=1024, description="ten images of 10 MiB as base64, and their text")
    max_line_brackets: int = Field(
        100_000, ge=100, description="objects and lists that a line opens; each takes a hundred times its bytes"
    )
    max_rows: int = Field(5_000_000, ge=1)
    min_rows: int = Field(10, ge=1, description="fewer is a warning, so that trial runs work")
    max_images: int = Field(10, ge=1, description="images of one example")
    max_image_bytes: int = Field(10 * MIB, ge=1024)
    max_image_pixels: int = Field(25_000_000, ge=64)
    max_image_side_px: int = Field(8192, ge=8)
    min_image_side_px: int = Field(8, ge=1)
    max_aspect_ratio: float = Field(20.0, ge=1, description="more elongated is a warning")
    max_kept_per_rule: int = Field(200, ge=1, description="issues listed for one rule; the count stays true")


class RemoteLimits(BaseModel):
    """How much one data set may fetch; waiting counts, for it holds a worker."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_urls: int = Field(100_000, ge=1, description="different URLs, those that failed included")
    max_total_bytes: int = Field(8 * GIB, ge=1, description="of all images that were fetched")
    image_s: float = Field(30.0, gt=0, description="for one try at an image, from the name server to the last byte")
    pause_s: float = Field(0.5, ge=0, description="before the second try")
    max_pause_s: float = Field(10.0, ge=0, description="before the second try, however long the server asks for")
    total_s: float = Field(7200.0, gt=0, description="for all images, tries and pauses")
