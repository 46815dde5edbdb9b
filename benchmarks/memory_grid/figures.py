"""What one run planned and held. Torch-free."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Figures(BaseModel):
    """Bytes of one run.

    Attributes:
        plan: As the run told it before its first step (`training.memory.MemoryPlan.document`).
        empty_bytes: What the process held before the run began.
        peak_bytes: The most that it held.
        peak_by_phase: The most that it held in each phase.
    """

    model_config = ConfigDict(frozen=True)

    plan: dict[str, Any]
    empty_bytes: int
    peak_bytes: int
    peak_by_phase: dict[str, int]

    @property
    def held_bytes(self) -> int:
        """Return what it held above the empty process."""
        return self.peak_bytes - self.empty_bytes

    @property
    def expected_bytes(self) -> int:
        """Return what was expected above an empty process."""
        return self.counted(self.plan["peak"]["phase"])

    @property
    def error(self) -> float:
        """Return how far the plan lay off, as a share of what was held."""
        return (self.expected_bytes - self.held_bytes) / self.held_bytes

    def phase(self, name: str) -> dict[str, int]:
        """Return the parts of a phase, without the empty process."""
        (phase,) = [each for each in self.plan["phases"] if each["phase"] == name]
        return {part: size for part, size in phase["parts"].items() if part != "process"}

    def counted(self, name: str, *, without: tuple[str, ...] = ()) -> int:
        """Return the sum of the parts of a phase, some left out."""
        return sum(size for part, size in self.phase(name).items() if part not in without)
