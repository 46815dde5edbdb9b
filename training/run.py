"""The child process of a job: `python -m training.run --spec spec.json --staging DIR --events-fd N`."""

import sys
from typing import Any

from core.child import Child, run_child
from core.process import calm_threads, use_one_gpu
from training.spec import TrainingSpec


def work(child: Child) -> dict[str, Any]:
    """Fine-tune as the spec says and return the data of the result event."""
    calm_threads()
    use_one_gpu()
    from training.pipeline import fine_tune  # late: torch takes seconds, and the supervisor waits for `hello`

    return fine_tune(TrainingSpec.model_validate(child.spec), child)


if __name__ == "__main__":
    sys.exit(run_child(work))
