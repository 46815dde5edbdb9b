"""What only a machine can tell of memory, as `benchmarks.memory` measured it. Torch-free."""

from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from vlm.precision import Quantization

FILE = Path(__file__).with_name("calibration.json")

Range = tuple[float, float]


class Calibration(BaseModel):
    """Bytes that do not follow from shapes.

    Attributes:
        libraries: What of the libraries' code and tables is first touched in each phase, summed up to it.
        kernels_per_shape: Compiled matrix kernels of each number of tokens that a pass has (oneDNN compiles by shape).
        kernel_shapes: So many at most, then old ones make room.
        kept_always, kept_share: What glibc keeps of what was freed, unless it gives it back at once (`compact_memory`): a
            constant, and a share of what comes and goes, by how the base is quantized.
        compact, fast: The ranges of what was measured over what was expected, for the two ways of the allocator.
        source: When and where it was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    process: int = Field(description="an empty process with the libraries imported")
    libraries: dict[str, int]
    kernels_per_shape: int
    kernel_shapes: int
    kept_always: int
    kept_share: dict[Quantization, float]
    compact: Range
    fast: Range
    source: str


@cache
def calibration() -> Calibration:
    """Return what the file says that comes with the code."""
    return Calibration.model_validate_json(FILE.read_text())
