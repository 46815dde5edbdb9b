"""The edges of the API: keys, hosts, sizes, containers, health, documentation."""

import io
import socket
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api.app import create_app
from api.health import PART_S
from core.db import Database
from core.errors import PROBLEMS
from core.process import free_port
from models.dataset import Dataset
from models.states import Kind
from models.work import Work
from tests.integration.conftest import colours, zip_of

KEY = {"Authorization": "Bearer s3cret"}


@pytest.fixture
def open_client(settings, api_database):
    """A function that opens a client of an API with other settings."""
    opened = []

    def start(base_url="http://localhost", **changes) -> TestClient:
        app = create_app(settings.model_copy(update=changes))
        client = TestClient(app, base_url=base_url, raise_server_exceptions=False)
        opened.append(client.__enter__())
        return client

    yield start
    for client in opened:
        client.__exit__(None, None, None)


def upload(client, data: bytes, /, name="data.zip", **request):
    return client.post("/datasets", files={"file": (name, io.BytesIO(data))}, **request)


def test_with_a_key_every_path_but_the_open_ones_wants_it(open_client):
    client = open_client(base_url="http://api.example", api_key=SecretStr("s3cret"))
    for path in ("/jobs", "/datasets", "/adapters", "/base-models", "/nowhere"):
        assert client.get(path).status_code == 401, path
        assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get(path, headers=KEY).status_code in (200, 404)
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200, path


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.0.0.5", "[::1]:8000"])
def test_without_a_key_every_loopback_name_is_ours(client, host):
    assert client.get("/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "[",
        "[::1",
        "user@localhost",
        "evil.example@127.0.0.1",
        "localhost/docs",
        "localhost:x",
        "10.0.0.1",
    ],
)
def test_without_a_key_any_other_host_is_refused(client, host):
    answer = client.get("/jobs", headers={"Host": host})
    assert answer.status_code == 403
    assert answer.json()["type"] == "/problems/foreign-host"


def test_a_host_that_holds_an_open_path_opens_nothing(open_client):
    client = open_client(base_url="http://api.example", api_key=SecretStr("s3cret"))
    for host in ("api.example/docs/?", "api.example/healthz?", "["):
        assert client.get("/jobs", headers={"Host": host}).status_code == 401, host


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_without_a_key_a_page_elsewhere_cannot_post(client, ready_dataset, headers):
    body = {"base_model": "tiny", "dataset": ready_dataset}
    assert client.post("/jobs", json=body, headers=headers).status_code == 403
    assert client.get("/jobs", headers=headers).json()["items"] == []


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "http://127.0.0.1:8000"}, {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}],
)
def test_without_a_key_a_page_of_this_machine_can_post(client, ready_dataset, headers):
    body = {"base_model": "tiny", "dataset": ready_dataset}
    assert client.post("/jobs", json=body, headers=headers).status_code == 202


def test_a_body_over_the_limit_is_a_413_problem(open_client):
    client = open_client(max_upload_bytes=10_000)
    answer = upload(client, b"x" * 20_000)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json()["instance"]
    assert answer.json()["type"] == "/problems/too-large"
    for word in ("LENSMITH_MAX_UPLOAD_BYTES", "LENSMITH_MAX_INFER_BYTES", "split the data set"):
        assert word in answer.json()["detail"]


def test_a_body_over_the_limit_without_a_length_is_a_413_problem_too(open_client):
    client = open_client(max_infer_bytes=5_000)
    answer = client.post(
        "/infer", content=(b"x" * 1000 for _ in range(20)), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413
    assert answer.json()["status"] == 413


@pytest.mark.parametrize(
    ("data", "name", "says"),
    [
        (b"", "empty.zip", "empty"),
        (b"%PDF-1.4 nothing", "paper.pdf", "PDF"),
        (b"<html></html>", "page.html", "Taken are"),
        (zip_of({"../evil.png": b"x", "data.jsonl": b"{}"}), "slip.zip", "evil.png"),
        (zip_of({"readme.txt": b"x"}), "nothing.zip", "jsonl"),
        (colours(3)[:-30], "cut.zip", "zip"),
    ],
)
def test_a_container_that_cannot_be_taken_is_refused_at_the_post_and_leaves_nothing(client, settings, data, name, says):
    answer = upload(client, data, name)
    assert answer.status_code == 422
    assert says in answer.json()["detail"]
    assert client.get("/datasets").json()["items"] == []
    assert [path for path in settings.layout.storage.rglob("*") if path.is_file()] == []


def test_an_upload_is_accepted_and_stored_before_it_answers(client, settings):
    answer = upload(client, colours(3))
    assert answer.status_code == 202
    made = answer.json()
    assert (made["state"], made["container"], made["name"]) == ("validating", "zip", "data")
    assert (settings.layout.storage / "default" / "datasets" / made["id"] / "upload").read_bytes() == colours(3)
    report = client.get(f"/datasets/{made['id']}/report")
    assert report.status_code == 409


def test_an_upload_sent_twice_with_one_key_is_one_data_set_and_stored_once(client, settings):
    headers = {"Idempotency-Key": "u1"}
    first, again = (upload(client, colours(3), headers=headers).json() for _ in range(2))
    assert first == again
    assert len([p for p in settings.layout.storage.rglob("upload") if p.is_file()]) == 1


@pytest.mark.parametrize("client", ["sqlite", "postgres"], indirect=True)
def test_a_mapping_of_columns_is_kept_with_the_data_set_and_shown(client):
    made = upload(client, colours(3), data={"columns": '{"image": "größe", "caption": "label"}'}).json()
    assert client.get(f"/datasets/{made['id']}").json()["columns"] == {"image": "größe", "caption": "label"}
    assert upload(client, colours(3)).json()["columns"] is None


@pytest.mark.parametrize(
    ("columns", "pointer"),
    [("{", "#/columns"), ('{"img": "a"}', "#/columns/img"), ('{"image": "a\\u0000"}', "#/columns/image")],
)
def test_a_wrong_mapping_of_columns_is_refused_at_the_post_and_leaves_nothing(client, settings, columns, pointer):
    answer = upload(client, colours(3), data={"columns": columns})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
    assert client.get("/datasets").json()["items"] == []
    assert [path for path in settings.layout.storage.rglob("*") if path.is_file()] == []


def test_another_mapping_under_the_same_key_is_another_request(client):
    headers = {"Idempotency-Key": "u2"}
    assert upload(client, colours(3), headers=headers).status_code == 202
    assert upload(client, colours(3), headers=headers, data={"columns": '{"image": "a"}'}).status_code == 422


def test_an_upload_stays_when_nobody_knows_whether_its_row_was_kept(client, settings, monkeypatch):
    """A connection that broke at the commit looks like a failure, but the row may be there."""
    write = Database.write

    @contextmanager
    def lost_after_the_commit(database):
        with write(database) as session:
            yield session
        raise sa.exc.OperationalError("COMMIT", {}, Exception("the connection is lost"))

    with monkeypatch.context() as patched:
        patched.setattr(Database, "write", lost_after_the_commit)
        assert upload(client, colours(3)).status_code == 503
    (made,) = client.get("/datasets").json()["items"]
    assert (settings.layout.storage / "default" / "datasets" / made["id"] / "upload").read_bytes() == colours(3)


def test_an_upload_while_the_database_is_away_leaves_no_file(settings):
    """The file was stored before the database was asked, and nobody ever removed it."""
    away = settings.model_copy(update={"database_url": f"postgresql://nobody@127.0.0.1:{free_port()}/none"})
    with TestClient(create_app(away), base_url="http://localhost", raise_server_exceptions=False) as client:
        assert upload(client, colours(3)).status_code == 503
    assert [path for path in settings.layout.storage.rglob("*") if path.is_file()] == []


def test_a_set_whose_validation_broke_says_so_instead_of_naming_a_report(client, api_database):
    lost = {
        "code": "worker_lost",
        "detail": "The worker was lost 3 times.",
        "remedy": "Look at its log.",
        "retryable": True,
    }
    with api_database.write() as session:
        session.add(Work(id="ds_lost", kind=Kind.VALIDATION, queue="cpu", state="failed", failure=lost))
        session.flush()
        session.add(
            Dataset(id="ds_lost", name="d", filename="d", container="zip", upload_sha256="0" * 64, upload_bytes=1)
        )
    report = client.get("/datasets/ds_lost/report")
    job = client.post("/jobs", json={"base_model": "tiny", "dataset": "ds_lost"})
    for answer in (report, job):
        assert answer.status_code == 409
        assert "The worker was lost 3 times. Look at its log." in answer.json()["detail"]


def test_a_method_that_nobody_knows_makes_no_metric_of_its_own(client):
    for number in range(5):
        client.request(f"M{number}", "/jobs")
    text = client.get("/metrics").text
    assert 'method="other"' in text
    assert 'method="M1"' not in text


def test_an_upload_whose_key_was_used_otherwise_leaves_no_file(client, settings):
    headers = {"Idempotency-Key": "u2"}
    upload(client, colours(3), headers=headers)
    assert upload(client, colours(4), headers=headers).status_code == 422
    assert len([path for path in settings.layout.storage.rglob("upload") if path.is_file()]) == 1


def test_a_file_name_never_becomes_a_path(client):
    made = upload(client, colours(3), name="../../etc/passwd.zip").json()
    assert made["filename"] == "passwd.zip"


def test_the_documentation_names_no_other_host(client):
    page = client.get("/docs").text
    assert "://" not in page.replace("http://www.w3.org", "")
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/docs/assets/{asset}" in page
        assert client.get(f"/docs/assets/{asset}").status_code == 200


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_kind_of_problem_has_its_page(client, problem):
    assert problem.title in client.get(f"/problems/{problem.slug}").text


def test_an_unknown_path_and_a_wrong_method_are_problems(client):
    for answer in (client.get("/nowhere"), client.delete("/jobs")):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code in (404, 405)


def test_readiness_tells_each_part_and_is_ready_without_workers(client):
    answer = client.get("/readyz")
    assert answer.status_code == 200
    parts = answer.json()["parts"]
    assert {name for name, part in parts.items() if part["ok"]} == {"database", "migrations", "storage", "broker"}


def test_a_broker_that_hangs_does_not_hold_readiness(open_client):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = open_client(redis_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["parts"]["broker"] == {"ok": False, "detail": f"does not answer within {PART_S:g} s"}


def test_a_database_that_is_not_migrated_is_not_ready(settings):
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "lensmith migrate" in answer.json()["parts"]["migrations"]["detail"]


def test_the_catalogue_tells_what_is_there_without_a_network(client):
    models = {model["id"]: model for model in client.get("/base-models").json()["items"]}
    assert models["tiny"]["local"] is True
    assert models["smolvlm-256m"]["hub_id"] == "HuggingFaceTB/SmolVLM-256M-Instruct"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"prompt": "x"}, "#"),
        ({"prompt": "x", "model": "tiny", "adapter": "adp_x"}, "#"),
        ({"model": "tiny"}, "#"),
        ({"prompt": "x", "model": "tiny", "temperature": -1}, "#/temperature"),
        ({"prompt": "x", "model": "tiny", "colour": 1}, "#/colour"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_with_its_pointer(client, body, pointer):
    answer = client.post("/infer", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_a_question_to_nobody_is_404(client):
    assert client.post("/infer", json={"prompt": "x", "adapter": "adp_x"}).status_code == 404
    assert client.post("/infer", json={"prompt": "x", "model": "no such model"}).status_code == 404


def test_an_image_field_that_is_text_is_refused(client):
    answer = client.post("/infer", files={"prompt": (None, "x"), "model": (None, "tiny"), "image": (None, "text")})
    assert answer.json()["errors"][0]["pointer"] == "#/image"


def test_inference_without_serving_is_503_and_says_where_to_look(settings, open_client):
    client = open_client(serving_url="http://127.0.0.1:1")
    answer = client.post("/infer", json={"prompt": "x", "model": "tiny"})
    assert answer.status_code == 503
    assert "/readyz" in answer.json()["detail"]
    assert answer.headers["retry-after"]


def test_the_metrics_count_requests_by_route_and_jobs_by_state(client, ready_dataset):
    client.post("/jobs", json={"base_model": "tiny", "dataset": ready_dataset})
    client.get("/jobs/job_x")
    text = client.get("/metrics").text
    assert 'lensmith_jobs{state="queued"} 1.0' in text
    assert 'lensmith_http_request_duration_seconds_count{method="GET",route="/jobs/{job_id}",status="404"} 1.0' in text
    assert "job_x" not in text
