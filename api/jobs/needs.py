"""What a job needs of a worker and how long it is, known when it is made."""

from dataclasses import dataclass

from training import settings
from training.resources import Resources
from training.spec import Hyperparameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Columns of the job and of its work.

    Attributes:
        planned_examples: That the run will take, repeats included; None where the splits of the data set are not known.
    """

    gpus: int
    resource_class: str | None
    planned_examples: int | None


def needs(resources: Resources, hyperparameters: Hyperparameters, splits: dict[str, int] | None) -> Needs:
    """Return what a job asks for, over a data set of these splits."""
    return Needs(
        gpus=resources.num_gpus,
        resource_class=resources.resource_class,
        planned_examples=_planned_examples(hyperparameters, (splits or {}).get("train", 0)),
    )


def _planned_examples(hyperparameters: Hyperparameters, num_examples: int) -> int | None:
    if not num_examples:
        return None
    # Of what the device decides nothing changes the number of steps.
    schedule = settings.resolve(
        hyperparameters, num_examples=num_examples, precision="fp32", on_gpu=False, can_pack=True
    )
    return schedule.num_trained(schedule.total_steps)
