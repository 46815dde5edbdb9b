"""`/datasets`."""

import os
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from sqlalchemy.exc import DataError, IntegrityError
from sqlmodel import Session

from api.datasets.access import find
from api.datasets.deletion import delete_dataset
from api.datasets.schemas import DatasetRead, read_dataset
from api.datasets.sources import OPENAPI_BODY, SourceDep, SourceRequest, dataset_of
from api.documents import problems
from api.idempotency import Answer, KeyHeader, fingerprint, once
from api.listing import Cursor, Limit, Page, paged
from api.services import ProjectDep, Services, ServicesDep
from api.text import NAME_CHARS, Name, is_control, said
from core.errors import Conflict, Invalid, NotFound, Problem, TooLarge
from core.ids import Prefix, new_id
from core.queue import Queue
from core.settings import Settings
from core.storage import Stored
from ingest.columns import parse_columns
from ingest.container import sniff
from models import dataset as datasets
from models import event, schema
from models.dataset import Dataset
from models.states import Kind
from models.work import Work

COLUMNS = (
    'which column of the upload stands for which field, as a JSON object: {"image": "img_path", "question": "prompt", '
    '"answer": "label"}; fields that it leaves out go by their own name'
)


def make_router(settings: Settings) -> APIRouter:
    """Return the routes; the upload's limit comes from the settings."""
    router = APIRouter(prefix="/datasets", tags=["datasets"])
    router.post(
        "",
        status_code=202,
        response_model=DatasetRead,
        responses=problems(TooLarge),
        max_body_size=settings.max_upload_bytes,
        openapi_extra=OPENAPI_BODY,
    )(create_dataset)
    router.get("")(list_datasets)
    router.get("/{dataset_id}", responses=problems(NotFound))(get_dataset)
    router.get("/{dataset_id}/report", responses=problems(NotFound, Conflict))(get_dataset_report)
    router.delete("/{dataset_id}", status_code=204, responses=problems(NotFound, Conflict))(delete_dataset)
    return router


def create_dataset(
    request: Request,
    services: ServicesDep,
    project: ProjectDep,
    source: SourceDep,
    file: Annotated[
        UploadFile | None, File(description="a zip, tar or tar.gz of images and *.jsonl, a bare JSONL, or Parquet")
    ] = None,
    name: Annotated[Name | None, Form()] = None,
    columns: Annotated[str | None, Form(description=COLUMNS)] = None,
    key: KeyHeader = None,
) -> Response:
    """Take a file, or the source of one (as JSON), and have a worker validate it.

    A container that cannot be taken is refused here, its content later. What lies at a source is only seen by a worker:
    whatever is wrong with it is the `failure` of the data set.
    """
    if source is not None:
        return _create_from(source, request, services, project=project, key=key)
    if file is None:
        raise Invalid.field("#/file", "Field required.")
    mapping = parse_columns(columns) if columns else None
    filename = _filename(file)
    file.file.seek(0)
    container = sniff(file.file, filename)
    with services.database.read() as session:
        schema.probe(session)  # a database that is away refuses before anything is stored
    dataset_id = new_id(Prefix.DATASET)
    stored = services.storage.put_stream(f"{project}/datasets/{dataset_id}/upload", file.file)
    dataset = Dataset(
        id=dataset_id,
        project=project,
        name=name or os.path.splitext(filename)[0][:NAME_CHARS] or "dataset",  # noqa: PTH122 - a name, not a path
        filename=filename,
        container=container.value,
        upload_sha256=stored.sha256,
        upload_bytes=stored.size_bytes,
        columns=mapping,
    )
    try:
        answer = once(
            services,
            request,
            project=project,
            key=key,
            content=fingerprint(stored.sha256, dataset.name, mapping),
            make=lambda session: _create(session, dataset),
        )
    except (Problem, IntegrityError, DataError):  # surely nothing was committed; after a lost connection, who knows
        services.storage.delete(stored.key)
        raise
    _after_commit(services, answer, stored, dataset_id)
    return answer.response()


def _create_from(
    source: SourceRequest, request: Request, services: Services, *, project: str, key: str | None
) -> Response:
    dataset = dataset_of(source, services.settings, dataset_id=new_id(Prefix.DATASET), project=project)
    answer = once(
        services,
        request,
        project=project,
        key=key,
        content=fingerprint(source.model_dump(mode="json")),
        make=lambda session: _create(session, dataset),
    )
    if not answer.replayed:
        services.doorbell.ring(Queue.CPU, answer.body["id"])
    return answer.response()


def list_datasets(
    services: ServicesDep, project: ProjectDep, limit: Limit = 20, cursor: Cursor = None
) -> Page[DatasetRead]:
    """List data sets, newest first."""
    with services.database.read() as session:
        rows = datasets.page(session, project=project, before=cursor, limit=limit + 1)
    return paged(rows, limit=limit, read=lambda row: read_dataset(*row), cursor=lambda row: row[0].id)


def get_dataset(dataset_id: str, services: ServicesDep, project: ProjectDep) -> DatasetRead:
    """Show a data set as it stands."""
    return read_dataset(*find(services, dataset_id, project=project))


def get_dataset_report(dataset_id: str, services: ServicesDep, project: ProjectDep) -> Response:
    """Show everything that validation found: each issue with its row, its pointer and what to do, and the statistics."""
    dataset, work = find(services, dataset_id, project=project)
    if dataset.report_fence is not None:
        key = dataset.report_key(dataset.report_fence)
        return Response(services.storage.read(key), media_type="application/json")
    if work.failure is not None:
        raise Conflict(f"There is no report, because the validation did not end: {said(work.failure)}")
    raise Conflict(f"The data set is still {read_dataset(dataset, work).state}; its report comes at the end.")


def _filename(file: UploadFile) -> str:
    """Return the last part of the name that came, without what a database or a terminal would choke on."""
    given = "".join(character for character in file.filename or "upload" if not is_control(character))
    return PurePosixPath(given.replace("\\", "/")).name[:255]


def _create(session: Session, dataset: Dataset) -> Answer:
    work = Work(id=dataset.id, project=dataset.project, kind=Kind.VALIDATION, queue=Queue.CPU)
    session.add(work)
    session.flush()
    session.add(dataset)
    session.flush()
    event.note(session, work.id, "Queued for validation.", state=work.state)
    body = read_dataset(dataset, work).model_dump(mode="json")
    return Answer(status=202, body=body, location=f"/datasets/{dataset.id}")


def _after_commit(services: Services, answer: Answer, stored: Stored, dataset_id: str) -> None:
    if answer.body["id"] == dataset_id:
        services.doorbell.ring(Queue.CPU, dataset_id)
    else:  # a replay: the bytes are there already, under the first request's id
        services.storage.delete(stored.key)
