"""Making a data set: a file comes as a form, in parts, or by its source; a worker validates it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, File, Form, Request, Response, UploadFile
from sqlalchemy.exc import DataError, IntegrityError
from sqlmodel import Session

from api.base_models.names import BaseName
from api.datasets.measuring import MEASURED, Measuring, measuring
from api.datasets.schemas import read_dataset
from api.datasets.sources import SourceDep, SourceRequest, UploadedRequest, dataset_of
from api.datasets.uploaded import Whole, find_whole, join, take
from api.idempotency import Answer, KeyHeader, answered, fingerprint, in_flight, once
from api.services import ProjectDep, Services, ServicesDep
from api.text import NAME_CHARS, Name, file_name
from core.draft import Stored
from core.errors import Conflict, Invalid, Problem, WorkFailed
from core.ids import Prefix, new_id
from core.queue import Queue
from ingest.columns import check_columns, parse_columns
from ingest.container import Container, sniff
from ingest.skipped import OnBadRow
from models import event, schema
from models import upload as uploads
from models.dataset import Dataset, upload_key
from models.removal import remove_below
from models.states import Kind
from models.work import Work
from vlm.image_options import ImageOptions

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
    measuring: Measuring


def _image_options(
    longest_edge: Annotated[int | None, Form(ge=32, le=4096, description="image.longest_edge of a job")] = None,
    split: Annotated[bool | None, Form(description="image.split of a job")] = None,
    upscale: Annotated[bool | None, Form(description="image.upscale of a job")] = None,
) -> ImageOptions:
    return ImageOptions(longest_edge=longest_edge, split=split, upscale=upscale)


def _wishes(
    image: Annotated[ImageOptions, Depends(_image_options)],
    name: Annotated[Name | None, Form()] = None,
    columns: Annotated[str | None, Form(description=COLUMNS)] = None,
    on_bad_row: Annotated[
        OnBadRow, Form(description="`skip` leaves rows with errors out; the report lists every one")
    ] = OnBadRow.FAIL,
    base_model: Annotated[BaseName | None, Form(description=MEASURED)] = None,
) -> Wishes:
    return Wishes(
        name=name,
        columns=parse_columns(columns) if columns else None,
        on_bad_row=on_bad_row,
        measuring=measuring(
            base_model, image, pointer=next((f"#/{name}" for name, value in image if value is not None), "#")
        ),
    )


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
    """Take a file, an upload in parts or the source of a file (both as JSON), and have a worker validate it.

    A container that cannot be taken is refused here, its content later. What lies at a source is only seen by a worker:
    whatever is wrong with it is the `failure` of the data set.
    """
    with in_flight(services, project=project, key=key):  # before anything is stored
        if isinstance(source, UploadedRequest):
            return _create_uploaded(source, request, services, project=project, key=key)
        if source is not None:
            return _create_from(source, request, services, project=project, key=key)
        if file is None:
            raise Invalid.field("#/file", "Field required.")
        return _create_sent(file, wishes, request, services, project=project, key=key)


def _create_sent(
    file: UploadFile, wishes: Wishes, request: Request, services: Services, *, project: str, key: str | None
) -> Response:
    filename = file_name(file.filename or "upload")
    file.file.seek(0)
    container = sniff(file.file, filename)
    with services.database.read() as session:
        schema.probe(session)  # a database that is away refuses before anything is stored
    dataset_id = new_id(Prefix.DATASET)
    stored = services.storage.put_stream(upload_key(project, dataset_id), file.file)
    dataset = _dataset(wishes, stored, dataset_id=dataset_id, project=project, filename=filename, container=container)
    wanted = dataset.name, dataset.columns, dataset.on_bad_row, dataset.base_model, dataset.image
    content = fingerprint(stored.sha256, *wanted)
    answer = _enter(
        dataset, request, services, key=key, content=content, make=lambda session: _create(session, dataset)
    )
    return answer.response()


def _create_uploaded(
    asked: UploadedRequest, request: Request, services: Services, *, project: str, key: str | None
) -> Response:
    """Join the parts and make the data set; the same key again is answered without the parts, which are gone then.

    Two such requests at the same moment, with different keys or in two processes, both join. The one that comes second sees the upload used, or its parts gone
    while it reads them: if the first was this very request, its answer is there now.
    """
    content = fingerprint(asked.model_dump(mode="json"))
    known = answered(services, request, project=project, key=key, content=content)
    if known is not None:
        return known.response()
    try:
        return _join_parts(asked, request, services, project=project, key=key, content=content).response()
    except (Conflict, WorkFailed):
        known = answered(services, request, project=project, key=key, content=content)
        if known is not None:
            return known.response()
        find_whole(services, asked.upload, project=project)  # says so when it was used meanwhile
        raise


def _join_parts(
    asked: UploadedRequest, request: Request, services: Services, *, project: str, key: str | None, content: str
) -> Answer:
    columns = None if asked.columns is None else check_columns(asked.columns)
    wishes = Wishes(
        name=asked.name,
        columns=columns,
        on_bad_row=asked.on_bad_row,
        measuring=measuring(asked.base_model, asked.image, pointer="#/image"),
    )
    whole = find_whole(services, asked.upload, project=project)
    dataset_id, filename = new_id(Prefix.DATASET), whole.upload.filename
    stored, container = join(services.storage, whole, upload_key(project, dataset_id))
    dataset = _dataset(wishes, stored, dataset_id=dataset_id, project=project, filename=filename, container=container)
    answer = _enter(
        dataset, request, services, key=key, content=content, make=lambda session: _use_up(session, whole, dataset)
    )
    remove_below(services.storage, whole.upload.prefix)
    return answer


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


def _dataset(
    wishes: Wishes, stored: Stored, *, dataset_id: str, project: str, filename: str, container: Container
) -> Dataset:
    return Dataset(
        id=dataset_id,
        project=project,
        name=wishes.name or os.path.splitext(filename)[0][:NAME_CHARS] or "dataset",  # noqa: PTH122 - a name, not a path
        filename=filename,
        container=container.value,
        on_bad_row=wishes.on_bad_row.value,
        upload_sha256=stored.sha256,
        upload_bytes=stored.size_bytes,
        columns=wishes.columns,
        base_model=wishes.measuring.base_model,
        image=wishes.measuring.image,
    )


def _enter(
    dataset: Dataset,
    request: Request,
    services: Services,
    *,
    key: str | None,
    content: str,
    make: Callable[[Session], Answer],
) -> Answer:
    """Make the rows of a data set whose file is stored, and ring; a file that nothing leads to is removed."""
    try:
        answer = once(services, request, project=dataset.project, key=key, content=content, make=make)
    except (Problem, IntegrityError, DataError):  # surely nothing was committed; after a lost connection, who knows
        services.storage.delete(dataset.upload_key)
        raise
    if answer.body["id"] == dataset.id:
        services.doorbell.ring(Queue.CPU, dataset.id)
    else:  # a replay: the bytes are there already, under the first request's id
        services.storage.delete(dataset.upload_key)
    return answer


def _use_up(session: Session, whole: Whole, dataset: Dataset) -> Answer:
    held = take(session, whole)
    answer = _create(session, dataset)
    uploads.use(session, held, dataset_id=dataset.id)
    return answer


def _create(session: Session, dataset: Dataset) -> Answer:
    work = Work(id=dataset.id, project=dataset.project, kind=Kind.VALIDATION, queue=Queue.CPU)
    session.add(work)
    session.flush()
    session.add(dataset)
    session.flush()
    event.note(session, work.id, "Queued for validation.", state=work.state)
    body = read_dataset(dataset, work).model_dump(mode="json")
    return Answer(status=202, body=body, location=f"/datasets/{dataset.id}")
