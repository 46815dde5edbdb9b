"""How large the examples of a data set are, whatever the base: sides of their pictures, and tokens of text, roughly. Torch-free.

Made once, when a data set is validated; a plan of any job over it is made from it without looking at a row again.
"""

from pydantic import BaseModel, ConfigDict, Field

Sides = tuple[int, int]  # (height, width) in pixels


class ExampleGroup(BaseModel):
    """Examples of about one size; what differs is rounded up."""

    model_config = ConfigDict(frozen=True)

    count: int
    images_px: tuple[Sides, ...] = Field(description="(height, width) of each image of one example")
    text_tokens: int = Field(description="of all text of one example, what a chat template writes included")
    answer_tokens: int = Field(description="of it, what is learned")


class ImageGroup(BaseModel):
    """Distinct images of about one size."""

    model_config = ConfigDict(frozen=True)

    count: int
    sides_px: Sides


class SizeHistogram(BaseModel):
    """All examples and images of a data set, in groups."""

    model_config = ConfigDict(frozen=True)

    examples: tuple[ExampleGroup, ...]
    images: tuple[ImageGroup, ...]
