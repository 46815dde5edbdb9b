"""Making a data set: a file comes as a form, or its source as JSON; a worker validates it."""

import os
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import Depends, File, Form, Request, Response, UploadFile
from sqlalchemy.exc import DataError, IntegrityError
from sqlmodel import Session

from api.datasets.schemas import read_dataset
from api.datasets.sources import SourceDep, SourceRequest, dataset_of
from api.idempotency import Answer, KeyHeader, fingerprint, once
from api.services import ProjectDep, Services, ServicesDep
from api.text import NAME_CHARS, Name, is_control
from core.errors import Invalid, Problem
from core.ids import Prefix, new_id
from core.queue import Queue
from core.storage import Stored
from ingest.columns import parse_columns
from ingest.container import sniff
from ingest.skipped import OnBadRow
from models import event, schema
from models.dataset import Dataset
from models.states import Kind
from models.work import Work

COLUMNS = (
    'which column of the upload stands for which field, as a JSON object: {"image": "img_path", "question": "prompt", '
    '"answer": "label"}; fields that it leaves out go by their own name'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the form says beside the file."""

    name: str | None
    columns: dict[str, str] | None
    on_bad_row: OnBadRow


def _wishes(
    name: Annotated[Name | None, Form()] = None,
    columns: Annotated[str | None, Form(description=COLUMNS)] = None,
    on_bad_row: Annotated[
        OnBadRow, Form(description="`skip` leaves rows with errors out; the report lists every one")
    ] = OnBadRow.FAIL,
) -> Wishes:
    return Wishes(name=name, columns=parse_columns(columns) if columns else None, on_bad_row=on_bad_row)


def create_dataset(
    request: Request,
    services: ServicesDep,
    project: ProjectDep,
    source: SourceDep,
    wishes: Annotated[Wishes, Depends(_wishes)],
    file: Annotated[
        UploadFile | None, File(description="a zip, tar or tar.gz of images and *.jsonl, a bare JSONL, or Parquet")
    ] = None,
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
        name=wishes.name or os.path.splitext(filename)[0][:NAME_CHARS] or "dataset",  # noqa: PTH122 - a name, not a path
        filename=filename,
        container=container.value,
        on_bad_row=wishes.on_bad_row.value,
        upload_sha256=stored.sha256,
        upload_bytes=stored.size_bytes,
        columns=wishes.columns,
    )
    try:
        answer = once(
            services,
            request,
            project=project,
            key=key,
            content=fingerprint(stored.sha256, dataset.name, dataset.columns, dataset.on_bad_row),
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
