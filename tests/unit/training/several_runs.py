"""A child that makes one run after the other, for tests: `training.launch` starts it several times, as it does a job.

It logs how many steps its processes packed. A run whose `resume_from` is the name of another goes on from the checkpoint before its last.
"""

import dataclasses
import shutil

from core.child import Child, run_child
from core.process import leave, rank, use_gpus
from training.checkpoint import CHECKPOINTS_FOLDER
from training.resources import Resources
from training.spec import TrainingSpec


def work(child: Child):
    """Make every run of the spec in a folder of its own; its name is logged before it."""
    use_gpus(rank(), count=0)
    from tests.unit.training.conftest import num_packed, recorded_steps
    from training.distributed import joined
    from training.pipeline import fine_tune

    with joined(Resources(gpus=0, num_processes=2)) as group:  # once: to meet again takes new names in torchrun's store
        for name, asked in child.spec["runs"].items():
            child.events.log(name)
            staging = child.staging / name
            staging.mkdir(exist_ok=True)
            if asked["resume_from"] is not None:
                asked["resume_from"] = str(without_newest(child.staging / asked["resume_from"] / CHECKPOINTS_FOLDER))
            with recorded_steps() as steps:
                fine_tune(TrainingSpec.model_validate(asked), dataclasses.replace(child, staging=staging))
            (packed,) = group.total(num_packed(steps))
            child.events.log(f"{packed:.0f} steps with packed rows")
    return {}


def without_newest(folder):
    """Return a folder of checkpoints, which then lacks the newest; the first process takes it away."""
    from torch import distributed

    if rank() == 0:
        shutil.rmtree(max(folder.iterdir()))
    distributed.barrier()
    return folder


if __name__ == "__main__":
    leave(run_child(work))
