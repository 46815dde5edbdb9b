"""From a request to rows: a job by itself, one that begins with another's request, one of a batch."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from sqlmodel import Session

from api.base_models.names import check_base_model
from api.datasets.access import ready
from api.jobs.schemas import JobCreate
from api.text import is_id
from core.db import insert, values_of
from core.errors import FieldError, Invalid
from core.ids import Prefix, new_id
from core.queue import Queue
from models import dataset as datasets
from models import event
from models import job as jobs
from models.dataset import Dataset
from models.job import Job
from models.states import Kind
from models.work import Work

REQUEST = ("method", "hyperparameters", "image", "resources")


def make_job(
    session: Session,
    body: JobCreate,
    *,
    project: str,
    batch_id: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> tuple[Job, Work]:
    """Write the rows of a new job; the caller commits and rings."""
    assert body.base_model is not None
    check_base_model(body.base_model)
    dataset = _ready_dataset(session, body.dataset, project=project)
    assert dataset.digest is not None
    work = Work(id=new_id(Prefix.JOB), project=project, kind=Kind.TRAINING, queue=Queue.GPU, priority=body.priority)
    job = Job(
        id=work.id,
        project=project,
        name=body.name or f"{dataset.name} on {body.base_model}"[:200],
        base_model=body.base_model,
        dataset_id=dataset.id,
        dataset_digest=dataset.digest,
        seed=body.seed,
        request=body.model_dump(mode="json", include=set(REQUEST)),
        labels=body.metadata,
        clone_of=body.clone_of,
        batch_id=batch_id,
        overrides=overrides,
    )
    event.begin(session, work, "Queued.", state=work.state)
    insert(session, Job, values_of(job))
    return job, work


def completed(session: Session, body: JobCreate, *, project: str) -> JobCreate:
    """Return a request with what it leaves out taken from the job that it names in `clone_of`."""
    if body.clone_of is None:
        missing = tuple(
            FieldError(pointer=f"#/{name}", detail="Field required, unless clone_of is given.")
            for name in ("base_model", "dataset")
            if getattr(body, name) is None
        )
        if missing:
            raise Invalid(f"{missing[0].pointer}: {missing[0].detail}", errors=missing)
        return body
    found = jobs.get(session, body.clone_of, project=project) if is_id(body.clone_of) else None
    if found is None:
        raise Invalid.field("#/clone_of", f"There is no job {body.clone_of!r}.")
    job, work = found
    original = {
        "base_model": job.base_model,
        "dataset": job.dataset_id,
        "seed": job.seed,
        "priority": work.priority,
        "metadata": job.labels,
        **job.request,
    }
    return validated(laid_over(original, body.model_dump(mode="json", by_alias=True, exclude_unset=True)))


def validated(document: Mapping[str, Any]) -> JobCreate:
    """Return a request that was put together; its faults are told as those of one that was sent."""
    try:
        return JobCreate.model_validate(document)
    except ValidationError as error:
        faults = tuple(
            FieldError(pointer="#/" + "/".join(map(str, fault["loc"])), detail=fault["msg"]) for fault in error.errors()
        )
        raise Invalid(
            f"With what it takes from the other job the request is wrong: {faults[0].detail}", errors=faults
        ) from error


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above`, object by object; `metadata` is replaced as a whole."""
    merged = dict(below)
    for name, value in above.items():
        inner = merged.get(name)
        is_deep = isinstance(value, Mapping) and isinstance(inner, Mapping) and name != "metadata"
        merged[name] = laid_over(inner, value) if is_deep else value  # type: ignore[arg-type]
    return merged


def _ready_dataset(session: Session, dataset_id: str | None, *, project: str) -> Dataset:
    found = datasets.hold(session, dataset_id, project=project) if dataset_id and is_id(dataset_id) else None
    if found is None:
        raise Invalid.field("#/dataset", f"There is no data set {dataset_id!r}; POST /datasets makes one.")
    return ready(*found)
