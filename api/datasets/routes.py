"""`/datasets`."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from api.datasets.access import find, find_ready
from api.datasets.creation import create_dataset
from api.datasets.deletion import delete_dataset
from api.datasets.schemas import DatasetRead, read_dataset
from api.datasets.sources import OPENAPI_BODY
from api.documents import problems
from api.downloads import begun, zipped
from api.listing import Cursor, Limit, Page, paged
from api.services import ProjectDep, ServicesDep
from api.text import said
from core.errors import Conflict, NotFound, TooLarge, Unavailable
from core.settings import Settings
from core.storage import Storage
from ingest.repaired import members
from models import dataset as datasets
from models.dataset import Dataset, image_key
from vlm.conversation import RECORDS_FILE


def make_router(settings: Settings) -> APIRouter:
    """Return the routes; the upload's limit comes from the settings."""
    router = APIRouter(prefix="/datasets", tags=["datasets"])
    router.post(
        "",
        status_code=202,
        response_model=DatasetRead,
        responses=problems(Conflict, TooLarge),
        max_body_size=settings.max_upload_bytes,
        openapi_extra=OPENAPI_BODY,
    )(create_dataset)
    router.get("")(list_datasets)
    router.get("/{dataset_id}", responses=problems(NotFound))(get_dataset)
    router.get("/{dataset_id}/report", responses=problems(NotFound, Conflict))(get_dataset_report)
    router.delete("/{dataset_id}", status_code=204, responses=problems(NotFound, Conflict))(delete_dataset)
    router.get(
        "/{dataset_id}/download",
        response_class=StreamingResponse,
        responses=problems(NotFound, Conflict, Unavailable)
        | {200: {"content": {"application/zip": {}}, "description": "pictures and data.jsonl, zipped"}},
    )(download_dataset)
    return router


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
        chunks = begun(services.storage.chunks(dataset.report_key(dataset.report_fence)))
        return StreamingResponse(chunks, media_type="application/json")
    if work.failure is not None:
        raise Conflict(f"There is no report, because the validation did not end: {said(work.failure)}")
    raise Conflict(f"The data set is still {read_dataset(dataset, work).state}; its report comes at the end.")


def download_dataset(dataset_id: str, services: ServicesDep, project: ProjectDep) -> StreamingResponse:
    """Download the data set repaired: a zip of its good rows and their images, which can be uploaded as it is."""
    dataset = find_ready(services, dataset_id, project=project)
    assert dataset.digest is not None
    headers = {"Content-Disposition": f'attachment; filename="{dataset.id}.zip"'}
    chunks = begun(zipped(_members(services.storage, dataset, dataset.digest)))
    return StreamingResponse(chunks, media_type="application/zip", headers=headers)


def _members(storage: Storage, dataset: Dataset, digest: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    with tempfile.TemporaryDirectory() as folder:
        storage.fetch(dataset.records_key(digest), Path(folder) / RECORDS_FILE)
        yield from members(Path(folder), lambda sha256: storage.chunks(image_key(dataset.project, sha256)))
