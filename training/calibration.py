"""What only a machine can tell of memory, as `benchmarks.memory` measured it. Torch-free."""

from functools import cache
from importlib import resources

from pydantic import BaseModel, ConfigDict, Field


class Calibration(BaseModel):
    """Bytes that do not follow from shapes.

    Attributes:
        libraries: What of the libraries' code and tables is first touched in each phase, summed up to it.
        kernels_per_shape: Compiled matrix kernels of each number of tokens that a pass has (oneDNN compiles by shape).
        kernel_shapes: So many at most, then old ones make room.
        low, high: The range of what was measured over what was expected.
        source: When and where it was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    process: int = Field(description="an empty process with the libraries imported")
    libraries: dict[str, int]
    kernels_per_shape: int
    kernel_shapes: int
    low: float
    high: float
    source: str


@cache
def calibration() -> Calibration:
    """Return what the file says that comes with the code."""
    return Calibration.model_validate_json(resources.files("training").joinpath("calibration.json").read_text())
