"""Finding a data set, and refusing one that is not there or not ready, in the same words everywhere."""

from typing import Any

from api.services import Services
from api.text import is_id, said
from core.errors import Conflict, NotFound
from models import dataset as datasets
from models.dataset import Dataset
from models.states import DatasetState, WorkState, dataset_state
from models.work import Work


def find(services: Services, dataset_id: str, *, project: str) -> tuple[Dataset, Work]:
    """Return a data set's rows, or refuse with 404."""
    with services.database.read() as session:
        found = datasets.get(session, dataset_id, project=project) if is_id(dataset_id) else None
    if found is None:
        raise NotFound(f"There is no data set {dataset_id!r}.")
    return found


def find_ready(services: Services, dataset_id: str, *, project: str) -> Dataset:
    """Return a data set that validation has found good, or refuse with 404 or 409."""
    dataset, work = find(services, dataset_id, project=project)
    refuse_unready(dataset.id, work.state, has_report=dataset.has_report, failure=work.failure)
    return dataset


def refuse_unready(dataset_id: str, work_state: WorkState, *, has_report: bool, failure: dict[str, Any] | None) -> None:
    """Refuse a data set that is not ready, with 409 and what to do."""
    state = dataset_state(work_state)
    if state is DatasetState.READY:
        return
    if state is DatasetState.VALIDATING:
        remedy = f"Wait until GET /datasets/{dataset_id} says ready."
    elif has_report:
        remedy = f"GET /datasets/{dataset_id}/report says what is wrong; mend it and upload it again."
    else:
        remedy = said(failure) if failure else "Upload it again."
    raise Conflict(f"The data set {dataset_id} is {state}. {remedy}", state=state.value)
