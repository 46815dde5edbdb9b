"""A base's processor with the image options of a job, without a change to the one that others use."""

import dataclasses

from core.errors import Invalid
from vlm.image_options import ImageOptions, OptionRefused
from vlm.loading import LoadedProcessor


def with_options(base: LoadedProcessor, options: ImageOptions) -> LoadedProcessor:
    """Return the base with a processor of its own and these options on it; tokenizer and template are shared.

    Raises:
        Invalid: The base cannot cut images like this.
    """
    try:
        own = base.family.with_image_options(base.processor, options)
    except OptionRefused as error:
        raise Invalid.field(f"#/image/{error.option}", f"{error.detail} {error.remedy}") from error
    return dataclasses.replace(base, processor=own)
