"""How pictures are cut for a base: what a caller may choose, and how it is told that a base cannot follow. Torch-free.

How the options are set on a processor, each family says (`vlm.family`).
"""

from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from core.errors import FailureCode, WorkFailed
from vlm.cutting import MAX_SIDE_PX

MIN_EDGE_PX = 32


class ImageOptions(BaseModel):
    """How pictures are cut before the model sees them; unset values keep the base model's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    longest_edge: int | None = Field(
        None,
        ge=MIN_EDGE_PX,
        le=MAX_SIDE_PX,
        description="pixels; SmolVLM scales every picture to it (up only with upscale): with split, more is more tiles. "
        "Qwen2.5-VL scales down what has more pixels than a square of it",
    )
    split: bool | None = Field(None, description="cut large pictures into tiles (more image tokens, finer detail)")
    upscale: bool | None = Field(
        None,
        description="false: with split, a small picture is only scaled up until it fills the tiles that it needs, at 512 px "
        "100 x 100 to one tile instead of 17; fewer tokens, but not what the base model was trained on. Unset keeps the "
        "base model's own, for SmolVLM true",
    )


class OptionRefused(WorkFailed):
    """A base model cannot follow one of the image options; `option` is the name of it."""

    def __init__(self, option: str, detail: str, *, remedy: str) -> None:
        super().__init__(FailureCode.BASE_MODEL, detail, remedy=remedy)
        self.option = option

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(OptionRefused, remedy=self.remedy), (self.option, self.detail)
