"""What callers send and the API does not take: pointers, control characters, ids that are none, unknown questions."""

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from api.app import create_app
from core.db import Database
from core.http import invalid_from

BODY = {"base_model": "tiny", "dataset": "ds_ready"}


ON_BOTH = pytest.mark.parametrize("client", ["sqlite", "postgres"], indirect=True)


def errors_of(answer) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return {error["pointer"]: error["detail"] for error in answer.json()["errors"]}


@pytest.mark.parametrize(
    ("hyperparameters", "says"),
    [
        ({"learning_rate": 7}, 'Input should be less than or equal to 1, or "auto".'),
        ({"epochs": [1]}, 'Input should be a valid number, or "auto".'),
    ],
)
def test_a_field_that_may_be_auto_has_one_error_with_its_range(client, ready_dataset, hyperparameters, says):
    answer = client.post("/jobs", json=BODY | {"hyperparameters": hyperparameters})
    (field,) = hyperparameters
    assert errors_of(answer) == {f"#/hyperparameters/{field}": says}


def test_two_wrong_fields_are_two_errors(client, ready_dataset):
    answer = client.post("/jobs", json=BODY | {"hyperparameters": {"learning_rate": 7, "max_steps": 0}, "seed": "x"})
    assert set(errors_of(answer)) == {"#/hyperparameters/learning_rate", "#/hyperparameters/max_steps", "#/seed"}


@pytest.mark.parametrize(
    ("content", "pointer"),
    [
        (5, "#/messages/0/content"),
        ([{"type": "picture"}], "#/messages/0/content/0"),
        ([{"type": "text"}], "#/messages/0/content/0/text"),
        ([{"type": "text", "text": 5}], "#/messages/0/content/0/text"),
    ],
)
def test_a_wrong_part_of_a_message_is_named_where_it_is(client, content, pointer):
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
    assert list(errors_of(client.post("/infer", json=body))) == [pointer]


@pytest.mark.parametrize("path", ["/jobs", "/infer"])
def test_a_body_that_is_not_json_is_told_by_line_and_column(client, path):
    answer = client.post(path, content=b'{"a":\n  nope}', headers={"Content-Type": "application/json"})
    (pointer, detail), *_ = errors_of(answer).items()
    assert pointer == "#"
    assert detail.startswith("The body is not JSON: line 2, column ")


PATHS = ["/jobs", "/jobs/batch", "/jobs/job_x/retry", "/uploads", "/infer", "/datasets"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("value", "says"),
    [
        (r'"\ud800"', "half of a surrogate pair"),
        (r'{"\ud800": 1}', "half of a surrogate pair"),
        ("NaN", "expected value"),
        ("-Infinity", "invalid number"),
        ("[" * 300 + "]" * 300, "deeper than 200 levels"),
        ('{"a":' * 10_000, "deeper than 200 levels"),
        (b'"\xff"', "invalid unicode code point"),
    ],
)
def test_what_looks_like_json_and_cannot_be_kept_is_refused(client, path, value, says):
    body = b'{"name": %s}' % (value if isinstance(value, bytes) else value.encode())
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert says in errors_of(answer)["#"]


def test_a_pointer_can_always_be_sent():
    problem = invalid_from([{"loc": ("body", "\ud800/~"), "msg": "no", "type": "extra_forbidden"}])
    assert problem.errors[0].pointer == "#/?~1~0"


@ON_BOTH
@pytest.mark.parametrize("bad", ["a\u0000b", "a\u0007b", "a\nb", "\u009b"])
def test_control_characters_in_what_callers_name_are_refused(client, ready_dataset, bad):
    for change, pointer in (
        ({"name": bad}, "#/name"),
        ({"base_model": bad}, "#/base_model"),
        ({"dataset": bad}, "#/dataset"),
        ({"metadata": {"k": bad}}, "#/metadata/k"),
    ):
        assert list(errors_of(client.post("/jobs", json=BODY | change))) == [pointer]
    assert client.post("/jobs", json=BODY | {"metadata": {bad: "v"}}).status_code == 422
    answer = client.post("/datasets", files={"file": ("a.jsonl", b"{}")}, data={"name": bad})
    assert answer.status_code == 422
    assert client.get("/jobs").json()["items"] == client.get("/datasets").json()["items"][1:] == []
    for name in ("adapter", "model"):
        assert list(errors_of(client.post("/infer", json={"prompt": "x", name: bad}))) == [f"#/{name}"]


@ON_BOTH
@pytest.mark.parametrize("thing", ["a%00b", "A", "a%0Ab", "a-b", "a" * 65, "%C3%A9"])
def test_an_id_that_can_be_none_is_404(client, thing):
    for path in ("/jobs/{}", "/jobs/{}/logs", "/adapters/{}", "/adapters/{}/download", "/datasets/{}"):
        answer = client.get(path.format(thing))
        assert answer.status_code == 404, (path, answer.text)
        assert answer.json()["type"] == "/problems/not-found"
    assert client.post(f"/jobs/{thing}/cancel").status_code == 404


@ON_BOTH
@pytest.mark.parametrize("path", ["/jobs", "/adapters", "/datasets"])
def test_a_cursor_that_can_be_none_is_refused(client, path):
    for cursor in ("%00", "A", "a" * 65, ""):
        assert list(errors_of(client.get(f"{path}?cursor={cursor}"))) == ["#/cursor"]


@ON_BOTH
def test_a_number_that_no_log_reaches_is_refused(client, ready_dataset):
    logs = f"{client.post('/jobs', json=BODY).headers['location']}/logs"
    assert list(errors_of(client.get(logs, params={"after": 10**30}))) == ["#/after"]
    for given in (str(2**31), "9" * 5000):
        answer = client.get(f"{logs}?follow=true", headers={"Last-Event-ID": given})
        assert list(errors_of(answer)) == ["#/last-event-id"]


@pytest.mark.parametrize(
    ("query", "pointer", "says"),
    [
        ("dry_run=perhaps", "#/dry_run", "boolean"),
        ("dryrun=true", "#/dryrun", "no query parameter"),
        ("colour=red", "#/colour", "no query parameter"),
    ],
)
def test_a_question_beside_the_body_makes_no_job(client, ready_dataset, query, pointer, says):
    errors = errors_of(client.post(f"/jobs?{query}", json=BODY))
    assert says in errors[pointer]
    assert client.get("/jobs").json()["items"] == []


def test_a_database_that_is_away_is_503(settings):
    away = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/none"})
    with TestClient(create_app(away), base_url="http://localhost", raise_server_exceptions=False) as client:
        answer = client.get("/jobs")
    assert answer.status_code == 503
    assert answer.json()["type"] == "/problems/unavailable"
    assert "database" in answer.json()["detail"]
    assert answer.headers["retry-after"]


def test_a_value_that_the_database_cannot_hold_is_422(settings, api_database, monkeypatch):
    def refused(_database):
        raise sa.exc.DataError("SELECT 1", {}, Exception("a value"))

    monkeypatch.setattr(Database, "read", refused)
    with TestClient(create_app(settings), base_url="http://localhost", raise_server_exceptions=False) as client:
        answer = client.get("/jobs")
    assert answer.status_code == 422
    assert "SELECT" not in answer.text


def test_a_form_field_that_is_too_large_is_a_422(client):
    answer = client.post("/infer", data={"model": "tiny", "prompt": "x" * 1_100_000}, files={"image": ("a", b"")})
    assert "1024KB" in errors_of(answer)["#"]


def test_a_file_in_the_wrong_field_is_told_the_right_one(client):
    answer = client.post("/infer", data={"model": "tiny", "prompt": "x"}, files={"images": ("a.png", b"x")})
    assert "files of the field image" in errors_of(answer)["#/images"]


def test_a_forgotten_at_sign_is_told_how_to_send_a_file(client):
    answer = client.post("/datasets", data={"file": "digits.zip"})
    assert errors_of(answer) == {"#/file": "A file is wanted here, and a text came (curl: -F file=@data.zip)."}


@pytest.mark.parametrize("path", ["/" + "a" * 300, "/" + "a/" * 200])
def test_a_path_that_no_folder_can_have_is_no_base_model(client, ready_dataset, path):
    assert "#/base_model" in errors_of(client.post("/jobs", json=BODY | {"base_model": path}))
    assert client.post("/infer", json={"model": path, "prompt": "x"}).status_code == 404
