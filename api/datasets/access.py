"""Finding a data set, and refusing one that is not there or not ready, in the same words everywhere."""

from api.services import Services
from api.text import is_id, said
from core.errors import Conflict, NotFound
from models import dataset as datasets
from models.dataset import Dataset
from models.states import DatasetState, dataset_state
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
    return ready(*find(services, dataset_id, project=project))


def ready(dataset: Dataset, work: Work) -> Dataset:
    """Return a data set that is ready, or refuse with 409 and what to do."""
    state = dataset_state(work.state)
    if state is DatasetState.READY:
        return dataset
    if state is DatasetState.VALIDATING:
        remedy = f"Wait until GET /datasets/{dataset.id} says ready."
    elif dataset.has_report:
        remedy = f"GET /datasets/{dataset.id}/report says what is wrong; mend it and upload it again."
    else:
        remedy = said(work.failure) if work.failure else "Upload it again."
    raise Conflict(f"The data set {dataset.id} is {state}. {remedy}", state=state.value)
