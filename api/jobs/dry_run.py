"""`POST /jobs?dry_run=true`: what a job would hold, how long it would take, what it would choose; nothing is made."""

from typing import Any

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field

from api.jobs import places, service
from api.jobs.memory import MemoryPlan, read_plan
from api.jobs.outlooks import Expected
from api.jobs.places import Place
from api.jobs.schemas import JobClone, JobCreate
from api.services import Services
from core.errors import Invalid
from training import cards

_DEVICES = ", ".join([cards.CPU, *(card.name for card in cards.CARDS)])


class DryRunQuery(BaseModel):
    """What may stand behind the `?` of `POST /jobs`."""

    model_config = ConfigDict(extra="ignore")

    dry_run: bool = Field(default=False, description="answer the plan of the job; nothing is made")
    device: str | None = Field(
        None, max_length=64, description=f"plan for this device instead of the best worker that is there: {_DEVICES}"
    )


class DryRun(MemoryPlan):
    """A job that was not made."""

    fits: bool = Field(description="whether it fits `budget_gb`, with what was chosen")
    budget_gb: float | None = Field(
        description="resources.memory_gb, else what the device has, in 10^9 bytes; null: nobody knows"
    )
    smallest_gb: float = Field(
        description="the smallest resources.memory_gb that is enough, with everything chosen for it"
    )
    settings: dict[str, Any] = Field(description='what `"auto"` comes to, on this device and within the budget')


def answer(services: Services, body: JobCreate | JobClone, *, project: str, device: str | None) -> Response:
    """Return the plan of a job, or refuse what could not be made, or not be planned."""
    place = None if device is None else _named(device)

    def ask() -> Expected:
        with services.database.write() as session:  # a data set is held, as when the job is made
            settled, dataset = service.settle(session, body, project=project)
            return services.outlooks.of(session, settled, dataset, place=place, exact=True)

    return Response(_read(services.outlooks.planned(ask)).model_dump_json(), media_type="application/json")


def _named(device: str) -> Place:
    found = places.named(device)
    if found is None:
        raise Invalid.field("#/device", f"There is no device {device!r}; known are {_DEVICES}.")
    return found


def _read(expected: Expected) -> DryRun:
    return DryRun(
        **read_plan(expected.document).model_dump(),
        fits=expected.fits,
        budget_gb=expected.budget_gb,
        smallest_gb=expected.outlook.least.needed_gb,
        settings=expected.outlook.settings(),
    )
