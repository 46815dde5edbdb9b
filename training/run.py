"""The child process of a job: `python -m training.run --spec spec.json --staging DIR --events-fd N`.

A job that asks for several processes gets them here: the child becomes their launcher.
"""

import gc
import json
from typing import Any

from pydantic import ValidationError

from core.child import Child, parse_arguments, run_child
from core.process import calm_threads, die_with_parent, is_launched, leave, rank, use_gpus
from training.spec import TrainingSpec


def main() -> int:
    """Run as the only process, as one of several, or as the launcher of these; return the exit status."""
    if is_launched():
        return run_child(work)
    num_processes = _num_processes()
    if num_processes == 1:
        return run_child(work)
    die_with_parent()
    calm_threads()
    from training.launch import run_processes  # late: it imports torch

    return run_processes(num_processes, module="training.run")


def work(child: Child) -> dict[str, Any]:
    """Fine-tune as the spec says and return the data of the result event."""
    spec = TrainingSpec.model_validate(child.spec)
    calm_threads()
    use_gpus(rank() * spec.resources.gpus_per_process, count=spec.resources.gpus_per_process)
    from training.pipeline import fine_tune  # late: torch takes seconds, and the supervisor waits for `hello`

    gc.freeze()  # what was imported stays: to look at its 600,000 objects takes 0.3 s at each change of phase
    return fine_tune(spec, child)


def _num_processes() -> int:
    try:
        spec = TrainingSpec.model_validate(json.loads(parse_arguments().spec.read_text()))
    except ValidationError:  # the only process says so
        return 1
    return spec.resources.resolved_processes


if __name__ == "__main__":
    leave(main())
