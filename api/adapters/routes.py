"""`/adapters`."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from api.documents import problems
from api.downloads import begun, zipped
from api.listing import Cursor, Limit, Page, paged
from api.services import ProjectDep, Services, ServicesDep
from api.text import is_id
from core.errors import Conflict, NotFound, Unavailable
from core.manifest import MANIFEST_FILE, FolderDamaged, parse_manifest
from core.storage import Storage
from models import adapter as adapters
from models.adapter import Adapter
from models.states import AdapterState

router = APIRouter(prefix="/adapters", tags=["adapters"])


class AdapterRead(BaseModel):
    """An adapter as it stands."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    project: str
    name: str
    state: AdapterState
    base_model: str
    base_revision: str
    job: str = Field(validation_alias="job_id")
    sha256: str = Field(description="of manifest.json, which names the sha256 of every file")
    size_bytes: int
    metrics: dict[str, Any] | None
    created_at: datetime


@router.get("")
def list_adapters(
    services: ServicesDep, project: ProjectDep, limit: Limit = 20, cursor: Cursor = None
) -> Page[AdapterRead]:
    """List adapters, newest first."""
    with services.database.read() as session:
        rows = adapters.page(session, project=project, before=cursor, limit=limit + 1)
    return paged(rows, limit=limit, read=AdapterRead.model_validate, cursor=lambda row: row.id)


@router.get("/{adapter_id}", responses=problems(NotFound))
def get_adapter(adapter_id: str, services: ServicesDep, project: ProjectDep) -> AdapterRead:
    """Show an adapter."""
    return AdapterRead.model_validate(find_adapter(services, adapter_id, project))


@router.get(
    "/{adapter_id}/download",
    response_class=StreamingResponse,
    responses=problems(NotFound, Conflict, Unavailable)
    | {200: {"content": {"application/zip": {}}, "description": "the folder, zipped"}},
)
def download_adapter(
    adapter_id: str,
    services: ServicesDep,
    project: ProjectDep,
    *,
    format_: Annotated[Literal["peft"], Query(alias="format")] = "peft",
) -> StreamingResponse:
    """Download the adapter's folder as a zip that `PeftModel.from_pretrained` loads."""
    del format_
    adapter = find_adapter(services, adapter_id, project)
    if adapter.state is not AdapterState.READY:
        raise Conflict(f"The adapter is {adapter.state}; only a ready one can be downloaded.")
    storage = services.storage
    members = ((name, storage.chunks(f"{adapter.prefix}/{name}")) for name in _names(storage, adapter))
    headers = {"Content-Disposition": f'attachment; filename="{adapter.id}.zip"'}
    return StreamingResponse(begun(zipped(members)), media_type="application/zip", headers=headers)


def find_adapter(services: Services, adapter_id: str, project: str) -> Adapter:
    """Return an adapter's row, or refuse with 404."""
    with services.database.read() as session:
        adapter = adapters.get(session, adapter_id, project=project) if is_id(adapter_id) else None
    if adapter is None:
        raise NotFound(f"There is no adapter {adapter_id!r}.")
    return adapter


def _names(storage: Storage, adapter: Adapter) -> list[str]:
    """Return the files that the adapter's manifest names and the manifest, sorted; all of them are there."""
    key = f"{adapter.prefix}/{MANIFEST_FILE}"
    if not storage.has(key):
        raise _damaged(adapter, f"{MANIFEST_FILE} is missing.")
    try:
        manifest = parse_manifest(storage.read(key), adapter.sha256)
    except FolderDamaged as damaged:
        raise _damaged(adapter, str(damaged)) from damaged
    for name in manifest.files:
        if not storage.has(f"{adapter.prefix}/{name}"):
            raise _damaged(adapter, f"{name} is missing.")
    return sorted([*manifest.files, MANIFEST_FILE])


def _damaged(adapter: Adapter, detail: str) -> Unavailable:
    return Unavailable(f"The adapter {adapter.id} in storage is not what was published: {detail}")
