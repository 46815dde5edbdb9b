"""The most memory that a run held in each of its phases: on its fullest GPU if it has one, else resident on the host."""

import ctypes
import gc
import resource
from contextlib import suppress
from pathlib import Path

import torch

from core.child import Child
from core.events import Phase, PhaseChanged

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # of the resident set; proc(5)


class Phases:
    """Says which phase a run is in, and notes the peak of each.

    Attributes:
        empty_bytes: What the process held before the first phase: the libraries.
        peaks: The most that was held in a phase, by its name; of one that came again, the most of all.
    """

    def __init__(self, child: Child) -> None:
        self._child = child
        self._phase: Phase | None = None
        self.peaks: dict[str, int] = {}
        if torch.cuda.is_available():
            torch.cuda.init()  # type: ignore[no-untyped-call]  # else there is no peak to forget
        self.empty_bytes = _peak_bytes()

    def enter(self, phase: Phase) -> None:
        """Leave the present phase and enter another."""
        self.leave()
        self._phase = phase
        self._child.events.emit(PhaseChanged(phase=phase))

    def leave(self) -> None:
        """Note the peak of the present phase."""
        if self._phase is not None:
            self.peaks[self._phase] = max(self.peaks.get(self._phase, 0), _peak_bytes())
        self._phase = None
        self.begin_again()

    def begin_again(self) -> None:
        """Forget what the present phase held so far."""
        _give_back()
        _forget_peak()

    @property
    def most_bytes(self) -> int:
        """Return the peak of all phases that were left."""
        return max(self.peaks.values())


def _peak_bytes() -> int:
    """Return the most that was held since the last `_forget_peak`."""
    if torch.cuda.is_available():
        return max(torch.cuda.max_memory_allocated(gpu) for gpu in range(torch.cuda.device_count()))
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # no Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(line.split()[1]) * 1024


def _give_back() -> None:
    """Give back what was freed: glibc and torch keep it for the next allocation, and the next phase has other sizes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _forget_peak() -> None:
    if torch.cuda.is_available():
        for gpu in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(gpu)
        return
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:  # not allowed, or no Linux: each phase then has the peak of those before it
        return
