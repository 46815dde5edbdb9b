"""`/adapters`: what a download holds, and what it does when storage lost a file."""

import io
import json
import zipfile

import pytest

from core.manifest import MANIFEST_FILE, make_manifest
from core.storage import Storage
from models.adapter import Adapter
from models.job import Job
from models.states import AdapterState, Kind
from models.work import Work

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}


@pytest.fixture
def stored(client, api_database, ready_dataset, settings, tmp_path):
    """A ready adapter; the storage and the prefix of its files."""
    folder = tmp_path / "made"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    manifest = make_manifest(folder)
    with api_database.write() as session:
        session.add(Work(id="job_1", kind=Kind.TRAINING, queue="gpu", state="succeeded"))
        session.flush()
        session.add(
            Job(
                id="job_1",
                name="n",
                base_model="tiny",
                dataset_id=ready_dataset,
                dataset_digest="d" * 64,
                seed=0,
                request={},
                labels={},
            )
        )
        session.flush()
        adapter = Adapter(
            id="adp_1",
            job_id="job_1",
            name="n",
            state=AdapterState.READY,
            base_model="tiny",
            base_revision="r",
            sha256=manifest.sha256,
            size_bytes=manifest.size_bytes,
        )
        session.add(adapter)
        prefix = adapter.prefix
    storage = Storage.from_url(settings.resolved_storage_url)
    for name in (*FILES, MANIFEST_FILE):
        storage.put_file(f"{prefix}/{name}", folder / name)
    return storage, prefix


def test_a_download_holds_what_the_manifest_names_and_nothing_else(client, stored):
    storage, prefix = stored
    storage.put_bytes(f"{prefix}/stray.tmp", b"left over")
    storage.put_bytes(f"{prefix}/deeper/adapter_config.json", b"another")
    answer = client.get("/adapters/adp_1/download")
    assert answer.status_code == 200
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.namelist() == sorted([*FILES, MANIFEST_FILE])
    assert {name: archive.read(name) for name in FILES} == FILES
    assert set(json.loads(archive.read(MANIFEST_FILE))["files"]) == set(FILES)


@pytest.mark.parametrize("name", [*FILES, MANIFEST_FILE])
def test_a_download_of_which_a_file_is_lost_is_503_and_names_it(client, stored, name):
    storage, prefix = stored
    storage.delete(f"{prefix}/{name}")
    answer = client.get("/adapters/adp_1/download")
    assert answer.status_code == 503
    assert name in answer.json()["detail"]


def test_a_manifest_that_was_changed_is_503(client, stored):
    storage, prefix = stored
    storage.put_bytes(f"{prefix}/{MANIFEST_FILE}", b'{"files": {}}')
    assert client.get("/adapters/adp_1/download").status_code == 503
