"""`DELETE /datasets/{id}`: hidden in one transaction, its objects removed after it."""

from sqlmodel import Session

from api.datasets.table import Table
from api.services import ProjectDep, ServicesDep
from api.text import is_id
from core.errors import Conflict, NotFound
from models import control
from models import dataset as datasets
from models import job as jobs
from models.dataset import Dataset
from models.removal import remove_below
from models.states import TERMINAL

NAMED_JOBS = 5  # in the sentence; the document names all of them


def delete_dataset(dataset_id: str, services: ServicesDep, project: ProjectDep) -> None:
    """Delete a data set that nothing uses: the upload, the table and the reports; deleted again it is not found.

    Refused while a job that has not ended uses it, and while a worker validates it; a validation that still waits is
    withdrawn. Jobs that have ended keep its id and its digest. The pictures stay in storage, because other data sets of
    the project share them; nothing shows them any more unless another data set names them.
    """
    with services.database.write() as session:
        dataset = _delete(session, dataset_id, project=project)
    remove_below(services.storage, dataset.prefix)  # what only this data set has
    Table.forget(dataset, cache=services.tables)


def _delete(session: Session, dataset_id: str, *, project: str) -> Dataset:
    found = datasets.hold_alone(session, dataset_id, project=project) if is_id(dataset_id) else None
    if found is None:
        raise NotFound(f"There is no data set {dataset_id!r}.")
    dataset, work = found
    users = jobs.unended_of(session, dataset_id)
    if users:
        raise Conflict(_in_use(users), jobs=users)
    if work.state not in TERMINAL and not control.withdraw(session, dataset_id):
        raise Conflict(
            f"A worker validates the data set. Delete it when GET /datasets/{dataset_id} says ready or failed.",
            state=work.state.value,
        )
    datasets.delete(session, dataset_id)
    return dataset


def _in_use(users: list[str]) -> str:
    more = f" and {len(users) - NAMED_JOBS} more" if len(users) > NAMED_JOBS else ""
    plural = "s" if len(users) > 1 else ""
    return (
        f"The data set is used by the job{plural} {', '.join(users[:NAMED_JOBS])}{more}. "
        f"Cancel the job{plural}, or wait until {'they have' if plural else 'it has'} ended; then delete it."
    )
