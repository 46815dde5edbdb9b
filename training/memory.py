"""What a run will hold, phase by phase and part by part, before it starts. Torch-free.

A phase is a few moments (`moments.py`), each a sum of parts; a phase's peak is its largest moment, and a run's is its
largest phase. Weights, adapter and activations are counted from shapes (`weights.py`, `activations.py`); what only a
machine can tell is measured by `benchmarks.memory`, which writes `calibration.json`. ADR 7 says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.events import Phase
from training.calibration import Calibration
from training.held import Held
from training.moments import Moments
from training.planned_run import Device, Parts, PlannedRun


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseMemory:
    """The largest moment of a phase.

    Attributes:
        parts: Bytes of each part, the largest first.
    """

    phase: Phase
    parts: Parts

    @property
    def total(self) -> int:
        """Return the sum."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What a run will hold.

    Attributes:
        low, high: The range around what is expected, as a share of it: how far measurements lay off.
        process: What an empty process holds, which is in no phase.
        disk: What the run leaves there.
        host: What a run on a GPU holds of the machine's own memory.
        source: Where what was measured comes from.
    """

    device: Device
    phases: tuple[PhaseMemory, ...]
    low: float
    high: float
    process: int
    disk: Parts
    host: Parts
    source: str

    @property
    def peak(self) -> PhaseMemory:
        """Return the phase that holds the most."""
        return max(self.phases, key=lambda each: each.total)

    @property
    def most_bytes(self) -> int:
        """Return the upper end of the range of what the run cannot do without, the empty process included.

        Features are pages of files that are only read: where memory is short the system takes them back.
        """
        most = max(each.total - each.parts.get("features", 0) for each in self.phases)
        return self.process + round(most * self.high)

    def document(self) -> dict[str, Any]:
        """Return the plan as JSON, in bytes; every figure of a phase and of the peak has the empty process in it."""
        return {
            "device": self.device,
            "needed": self.most_bytes,
            "peak": {"phase": self.peak.phase.value, **self._range(self.peak)},
            "phases": [
                {"phase": each.phase.value, **self._range(each), "parts": {"process": self.process} | each.parts}
                for each in self.phases
            ],
            "disk": self.disk,
            "host": self.host,
            "source": self.source,
        }

    def _range(self, each: PhaseMemory) -> dict[str, int]:
        return {
            "low": self.process + round(each.total * self.low),
            "expected": self.process + each.total,
            "high": self.process + round(each.total * self.high),
        }


def plan(run: PlannedRun, calibration: Calibration) -> MemoryPlan:
    """Return the memory of a run."""
    held = Held(run, calibration)
    moments = Moments(run, held, calibration)
    on_cpu = run.device == "cpu"
    low, high = calibration.compact if run.schedule.compact_memory or not on_cpu else calibration.fast
    return MemoryPlan(
        device=run.device,
        low=low,
        high=high,
        process=calibration.process if on_cpu else 0,
        disk=held.disk(),
        host=held.host(),
        source=calibration.source if on_cpu else "counted; not measured on a GPU",
        phases=tuple(
            _largest(phase, parts)
            for phase, parts in (
                (Phase.LOADING, list(moments.loading())),
                (Phase.PREPARING, list(moments.preparing())),
                (Phase.TRAINING, list(moments.training())),
                (Phase.EVALUATING, list(moments.evaluating())),
            )
            if parts  # without a validation split nobody evaluates
        ),
    )


def _largest(phase: Phase, moments: Sequence[Parts]) -> PhaseMemory:
    most = max(moments, key=lambda parts: sum(parts.values()))
    ordered = sorted(((name, size) for name, size in most.items() if size), key=lambda each: -each[1])
    return PhaseMemory(phase=phase, parts=dict(ordered))
