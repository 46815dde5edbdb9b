"""`/datasets`."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import DataError, IntegrityError
from sqlmodel import Session

from api.datasets.schemas import DatasetRead, read_dataset
from api.documents import problems
from api.downloads import begun, zipped
from api.idempotency import Answer, KeyHeader, fingerprint, once
from api.listing import Cursor, Limit, Page, paged
from api.services import ProjectDep, Services, ServicesDep
from api.text import NAME_CHARS, Name, is_control, is_id, said
from core.errors import Conflict, NotFound, Problem, TooLarge, Unavailable
from core.ids import Prefix, new_id
from core.queue import Queue
from core.settings import Settings
from core.storage import Storage, Stored
from ingest.container import sniff
from ingest.repaired import members
from ingest.skipped import OnBadRow
from models import dataset as datasets
from models import event, schema
from models.dataset import Dataset, image_key
from models.states import DatasetState, Kind
from models.work import Work
from vlm.conversation import RECORDS_FILE


def make_router(settings: Settings) -> APIRouter:
    """Return the routes; the upload's limit comes from the settings."""
    router = APIRouter(prefix="/datasets", tags=["datasets"])
    router.post(
        "",
        status_code=202,
        response_model=DatasetRead,
        responses=problems(TooLarge),
        max_body_size=settings.max_upload_bytes,
    )(create_dataset)
    router.get("")(list_datasets)
    router.get("/{dataset_id}", responses=problems(NotFound))(get_dataset)
    router.get("/{dataset_id}/report", responses=problems(NotFound, Conflict))(get_dataset_report)
    router.get(
        "/{dataset_id}/download",
        response_class=StreamingResponse,
        responses=problems(NotFound, Conflict, Unavailable)
        | {200: {"content": {"application/zip": {}}, "description": "pictures and data.jsonl, zipped"}},
    )(download_dataset)
    return router


def create_dataset(
    request: Request,
    services: ServicesDep,
    project: ProjectDep,
    file: Annotated[UploadFile, File(description="a zip of images and *.jsonl, a bare JSONL, or Parquet")],
    name: Annotated[Name | None, Form()] = None,
    on_bad_row: Annotated[
        OnBadRow, Form(description="`skip` leaves rows with errors out; the report lists every one")
    ] = OnBadRow.FAIL,
    key: KeyHeader = None,
) -> Response:
    """Take a file and have a worker validate it. A container that cannot be taken is refused here, its content later."""
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
        on_bad_row=on_bad_row.value,
        upload_sha256=stored.sha256,
        upload_bytes=stored.size_bytes,
    )
    try:
        answer = once(
            services,
            request,
            project=project,
            key=key,
            content=fingerprint(stored.sha256, dataset.name, dataset.on_bad_row),
            make=lambda session: _create(session, dataset),
        )
    except (Problem, IntegrityError, DataError):  # surely nothing was committed; after a lost connection, who knows
        services.storage.delete(stored.key)
        raise
    _after_commit(services, answer, stored, dataset_id)
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
    return read_dataset(*_find(services, dataset_id, project))


def get_dataset_report(dataset_id: str, services: ServicesDep, project: ProjectDep) -> Response:
    """Show everything that validation found: each issue with its row, its pointer and what to do, and the statistics."""
    dataset, work = _find(services, dataset_id, project)
    if dataset.report_fence is not None:
        chunks = begun(services.storage.chunks(dataset.report_key(dataset.report_fence)))
        return StreamingResponse(chunks, media_type="application/json")
    if work.failure is not None:
        raise Conflict(f"There is no report, because the validation did not end: {said(work.failure)}")
    raise Conflict(f"The data set is still {read_dataset(dataset, work).state}; its report comes at the end.")


def download_dataset(dataset_id: str, services: ServicesDep, project: ProjectDep) -> StreamingResponse:
    """Download the data set repaired: a zip of its good rows and their images, which can be uploaded as it is."""
    dataset, work = _find(services, dataset_id, project)
    state = read_dataset(dataset, work).state
    if state is not DatasetState.READY or dataset.digest is None:
        raise Conflict(f"The data set is {state}; only a ready one can be downloaded.")
    headers = {"Content-Disposition": f'attachment; filename="{dataset.id}.zip"'}
    chunks = begun(zipped(_members(services.storage, dataset, dataset.digest)))
    return StreamingResponse(chunks, media_type="application/zip", headers=headers)


def _members(storage: Storage, dataset: Dataset, digest: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    with tempfile.TemporaryDirectory() as folder:
        storage.fetch(dataset.records_key(digest), Path(folder) / RECORDS_FILE)
        yield from members(Path(folder), lambda sha256: storage.chunks(image_key(dataset.project, sha256)))


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


def _find(services: Services, dataset_id: str, project: str) -> tuple[Dataset, Work]:
    with services.database.read() as session:
        found = datasets.get(session, dataset_id, project=project) if is_id(dataset_id) else None
    if found is None:
        raise NotFound(f"There is no data set {dataset_id!r}.")
    return found
