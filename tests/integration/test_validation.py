"""A data set's validation as the worker prepares it."""

from core.ids import Prefix, new_id
from core.storage import Storage
from models.dataset import Dataset
from models.leases import Claim
from models.states import Kind
from models.work import Work
from tests.integration.conftest import attempt_of, validation_of
from worker.kinds import Rooms


def test_the_child_is_told_the_container_the_mapping_of_columns_and_the_base(api_database, settings, tmp_path):
    dataset_id = new_id(Prefix.DATASET)
    dataset = Dataset(
        id=dataset_id,
        name="n",
        filename="a.tgz",
        container="tar",
        upload_sha256="0" * 64,
        upload_bytes=1,
        columns={"image": "img_path"},
        base_model="tiny",
        image={"longest_edge": 64, "split": None, "upscale": False},
    )
    storage = Storage.from_url((tmp_path / "storage").as_uri())
    storage.put_bytes(dataset.upload_key, b"x")
    with api_database.write() as session:
        session.add(Work(id=dataset_id, kind=Kind.VALIDATION, queue="cpu"))
        session.flush()
        session.add(dataset)
    claim = Claim(work_id=dataset_id, project="default", kind=Kind.VALIDATION, fence=1, attempt=1)
    attempt = attempt_of(claim, api_database, settings)
    spec = validation_of(Rooms(api_database, storage, settings.layout), settings).prepare(attempt, tmp_path)
    assert (spec["container"], spec["columns"]) == ("tar", {"image": "img_path"})
    assert (spec["base_model"], spec["image"]) == ("tiny", {"longest_edge": 64, "split": None, "upscale": False})
    assert spec["models_dir"] == str(settings.layout.models)
    assert (tmp_path / "upload").read_bytes() == b"x"
