"""For which base model the rows of a data set are measured, and how its images are cut for that."""

from dataclasses import dataclass
from typing import Any

from api.base_models.names import check_base_model
from core.errors import Invalid
from vlm.image_options import ImageOptions

MEASURED = (
    "the report says how long each row is for it, and a row that a job would refuse is an error; as in POST /jobs"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """The base model that the report is to speak of, and the image options as the row keeps them; or neither."""

    base_model: str | None
    image: dict[str, Any] | None


def measuring(base_model: str | None, image: ImageOptions, *, pointer: str) -> Measuring:
    """Return what is to be measured.

    Args:
        base_model: As it was asked for.
        image: As in a job.
        pointer: Of the image options in the request.

    Raises:
        Invalid: It is no base model; or there are image options, and no base that they could be for.
    """
    if base_model is not None:
        check_base_model(base_model)
        return Measuring(base_model=base_model, image=image.model_dump())
    if image != ImageOptions():
        raise Invalid.field(
            pointer, "Image options are for a base model, and none is named; say which with base_model."
        )
    return Measuring(base_model=None, image=None)
