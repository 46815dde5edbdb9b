"""A base's processor with the image options of a job, without a change to the one that others use."""

from typing import Any

from core.errors import Invalid, WorkFailed
from vlm import image_options
from vlm.image_options import ImageOptions


def with_options(processor: Any, options: ImageOptions) -> Any:
    """Return a copy of the processor with these options, as `vlm.image_options` does.

    Raises:
        Invalid: The base cannot cut images like this.
    """
    try:
        return image_options.with_options(processor, options)
    except WorkFailed as error:
        name = "split" if options.longest_edge is None else "longest_edge"
        raise Invalid.field(f"#/image/{name}", f"{error.detail} {error.remedy}") from error
