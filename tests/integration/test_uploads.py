"""Uploads in parts: what is taken, in which order, what is refused, what is left; over the API in this process."""

import base64
import hashlib
import threading
from datetime import timedelta

import pytest
from sqlmodel import select

from core.clock import utc_now
from models.upload import Upload
from models.work import Work
from tests.integration.conftest import colours
from tests.integration.test_api_edges import open_client  # noqa: F401 - a fixture
from tests.integration.test_api_inputs import errors_of
from tests.integration.uploading import DATA, NUM_PARTS, ON_BOTH, PART, begin, complete, piece, put, send

ROUNDS = 10


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"upload_part_bytes": PART})


def digest_of(data) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


@ON_BOTH
def test_a_file_in_parts_becomes_the_data_set_that_it_becomes_as_a_form(client, settings, objects):
    upload_id = begin(client)
    send(client, upload_id)
    answer = complete(client, upload_id)
    assert answer.status_code == 202, answer.text
    as_form = client.post("/datasets", files={"file": ("colours.zip", DATA)}).json()
    own = {"id", "created_at"}
    assert {k: v for k, v in answer.json().items() if k not in own} == {
        k: v for k, v in as_form.items() if k not in own
    }
    assert answer.json()["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert answer.headers["location"] == f"/datasets/{answer.json()['id']}"
    made = [f"default/datasets/{each['id']}/upload" for each in (answer.json(), as_form)]
    assert objects() == sorted(made)  # no part is left
    assert (settings.layout.storage / made[0]).read_bytes() == DATA


@ON_BOTH
def test_an_upload_says_what_it_is_and_which_parts_are_there(client):
    answer = client.post("/uploads", json={"filename": "../a\\colours.zip", "size_bytes": len(DATA)})
    made = answer.json()
    assert answer.headers["location"] == f"/uploads/{made['id']}"
    assert made["id"].startswith("upl_")
    assert (made["state"], made["filename"], made["size_bytes"]) == ("pending", "colours.zip", len(DATA))
    assert (made["part_bytes"], made["num_parts"], made["received_bytes"]) == (PART, NUM_PARTS, 0)
    assert (made["parts"], made["dataset"]) == ([], None)
    kept = put(client, made["id"], NUM_PARTS).json()
    last = piece(NUM_PARTS)
    assert kept == {"number": NUM_PARTS, "size_bytes": len(last), "sha256": hashlib.sha256(last).hexdigest()}
    put(client, made["id"], 2)
    shown = client.get(f"/uploads/{made['id']}").json()
    assert [part["number"] for part in shown["parts"]] == [2, NUM_PARTS]
    assert (shown["parts"][1], shown["received_bytes"]) == (kept, PART + len(last))
    assert shown["expires_at"] > made["expires_at"]


def test_parts_may_come_in_any_order(client):
    upload_id = begin(client)
    send(client, upload_id, reversed(range(1, NUM_PARTS + 1)))
    assert complete(client, upload_id).json()["sha256"] == hashlib.sha256(DATA).hexdigest()


@ON_BOTH
def test_a_part_sent_again_is_stored_once_and_the_newest_bytes_count(client, objects):
    upload_id = begin(client)
    wrong = put(client, upload_id, 1, b"x" * PART).json()
    first = objects()
    assert put(client, upload_id, 1, b"x" * PART).json() == wrong
    assert objects() == first
    put(client, upload_id, 1)
    assert len(objects()) == 1
    assert objects() != first
    send(client, upload_id, range(2, NUM_PARTS + 1))
    assert complete(client, upload_id).json()["sha256"] == hashlib.sha256(DATA).hexdigest()


def test_missing_parts_are_a_409_that_names_them(client, objects):
    upload_id = begin(client)
    send(client, upload_id, [1, *range(4, NUM_PARTS + 1)])
    answer = complete(client, upload_id)
    assert (answer.status_code, answer.json()["missing_parts"]) == (409, [2, 3])
    assert "the parts 2, 3 did not come yet" in answer.json()["detail"]
    assert client.get("/datasets").json()["items"] == []
    send(client, upload_id, [2])
    assert "the part 3 did not come yet" in complete(client, upload_id).json()["detail"]
    none = complete(client, begin(client)).json()
    assert len(none["missing_parts"]) == NUM_PARTS
    assert f"and {NUM_PARTS - 10} more" in none["detail"]
    assert len(objects()) == NUM_PARTS - 1


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("number", "content"), [(1, b"x" * (PART - 1)), (1, b"x" * (PART + 1)), (NUM_PARTS, b"x" * PART), (1, b"")]
)
def test_a_part_of_another_length_is_refused_and_not_kept(client, objects, number, content, chunked):
    upload_id = begin(client)
    body = iter([content[:100], content[100:]]) if chunked else content
    answer = put(client, upload_id, number, body)
    assert f"{len(content):,} came" in errors_of(answer)["#"]
    assert (objects(), client.get(f"/uploads/{upload_id}").json()["parts"]) == ([], [])


def test_a_part_that_is_much_too_long_is_refused_before_all_of_it_was_read(client, objects):
    read = 0

    def endless():
        nonlocal read
        while read < 50_000_000:
            read += 100_000
            yield b"x" * 100_000

    upload_id = begin(client)
    assert "at least" in errors_of(put(client, upload_id, 1, endless()))["#"]
    assert objects() == []


@pytest.mark.parametrize("number", [NUM_PARTS + 1, 10**30])
def test_a_number_that_no_part_has_is_refused(client, number):
    answer = client.put(f"/uploads/{begin(client)}/parts/{number}", content=b"x")
    assert f"has {NUM_PARTS} parts" in errors_of(answer)["#/number"]


@pytest.mark.parametrize("number", ["0", "-1", "a"])
def test_a_part_without_a_number_is_refused(client, number):
    assert list(errors_of(client.put(f"/uploads/{begin(client)}/parts/{number}", content=b"x"))) == ["#/number"]


def test_a_digest_that_is_right_is_taken(client):
    upload_id = begin(client)
    for field in (
        digest_of(piece(1)),
        f"sha-512=:AAAA:, {digest_of(piece(1))}",
        f"{digest_of(piece(1))};a=1,md5=:AA==:",
    ):
        answer = put(client, upload_id, 1, **{"Content-Digest": field})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("field", "says"),
    [
        (digest_of(b"other"), "Send it again."),
        ("sha-512=:AAAA:", "only sha-256"),
        ("", "only sha-256"),
        ("sha-256=:!!!!:", "no digest in base64"),
        ("sha-256=:AAAA:", "no digest in base64"),
        ("sha-256=AAAA", "no digest in base64"),
        ("sha-256=:", "no digest in base64"),
    ],
)
def test_a_digest_that_is_wrong_or_cannot_be_checked_refuses_the_part(client, objects, field, says):
    upload_id = begin(client)
    assert says in errors_of(put(client, upload_id, 1, **{"Content-Digest": field}))["#/content-digest"]
    assert (objects(), client.get(f"/uploads/{upload_id}").json()["parts"]) == ([], [])


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(open_client):  # noqa: F811
    client = open_client(max_upload_bytes=10_000)
    answer = client.post("/uploads", json={"filename": "a.zip", "size_bytes": 10_001})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (413, "#/size_bytes")
    assert "10,001 bytes, and this server takes 10,000" in answer.json()["detail"]
    assert "LENSMITH_MAX_UPLOAD_BYTES" in answer.json()["detail"]
    assert client.post("/uploads", json={"filename": "a.zip", "size_bytes": 10_000}).status_code == 201


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"size_bytes": 0}, "#/size_bytes"),
        ({"filename": ""}, "#/filename"),
        ({"filename": "a\0b"}, "#/filename"),
        ({"colour": 1}, "#/colour"),
    ],
)
def test_an_upload_that_cannot_be_begun_is_refused(client, changes, pointer):
    answer = client.post("/uploads", json={"filename": "a.zip", "size_bytes": 1} | changes)
    assert list(errors_of(answer)) == [pointer]


def test_an_upload_begun_twice_with_one_key_is_one(client):
    headers = {"Idempotency-Key": "u1"}
    body = {"filename": "a.zip", "size_bytes": 1}
    first, again = (client.post("/uploads", json=body, headers=headers) for _ in range(2))
    assert first.json() == again.json()
    assert len(client.get("/uploads").json()["items"]) == 1


@ON_BOTH
@pytest.mark.parametrize("thing", ["upl_nothing", "A", "a%00b"])
def test_an_upload_that_nobody_began_is_not_found(client, thing):
    for answer in (
        client.get(f"/uploads/{thing}"),
        client.delete(f"/uploads/{thing}"),
        client.put(f"/uploads/{thing}/parts/1", content=b"x"),
    ):
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")
    assert "There is no upload" in errors_of(complete(client, "upl_nothing"))["#/upload"]


@ON_BOTH
def test_an_upload_of_another_project_is_like_one_that_nobody_began(client, api_database):
    with api_database.write() as session:
        session.add(Upload(id="upl_other", project="other", filename="a.zip", size_bytes=3, part_bytes=3))
    for answer in (
        client.get("/uploads/upl_other"),
        client.delete("/uploads/upl_other"),
        client.put("/uploads/upl_other/parts/1", content=b"abc"),
    ):
        assert answer.status_code == 404
        assert answer.json()["detail"] == client.get("/uploads/upl_none").json()["detail"].replace("none", "other")
    assert list(errors_of(complete(client, "upl_other"))) == ["#/upload"]
    assert client.get("/uploads").json()["items"] == []


def test_uploads_are_listed_newest_first_with_their_parts(client):
    ids = [begin(client) for _ in range(3)]
    put(client, ids[0], 1)
    page = client.get("/uploads", params={"limit": 2}).json()
    rest = client.get("/uploads", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert [upload["id"] for upload in page["items"] + rest["items"]] == ids[::-1]
    assert [part["number"] for part in rest["items"][0]["parts"]] == [1]
    assert rest["next_cursor"] is None


@ON_BOTH
def test_an_upload_that_is_given_up_leaves_nothing(client, objects, api_database):
    upload_id = begin(client)
    send(client, upload_id, [1, 2])
    answer = client.delete(f"/uploads/{upload_id}")
    assert (answer.status_code, answer.content, objects()) == (204, b"", [])
    assert client.get(f"/uploads/{upload_id}").status_code == client.delete(f"/uploads/{upload_id}").status_code == 404
    assert put(client, upload_id, 3).status_code == 404
    assert objects() == []
    with api_database.read() as session:
        assert session.get(Upload, upload_id) is None


@ON_BOTH
def test_an_upload_that_expired_is_not_found(client, api_database):
    upload_id = begin(client)
    send(client, upload_id)
    with api_database.write() as session:
        session.get_one(Upload, upload_id).expires_at = utc_now() - timedelta(seconds=1)
    assert client.get(f"/uploads/{upload_id}").status_code == 404
    assert put(client, upload_id, 1).status_code == 404
    assert "24 hours" in errors_of(complete(client, upload_id))["#/upload"]
    assert client.get("/uploads").json()["items"] == client.get("/datasets").json()["items"] == []


@ON_BOTH
def test_an_upload_becomes_one_data_set_only(client):
    upload_id = begin(client)
    send(client, upload_id)
    dataset_id = complete(client, upload_id).json()["id"]
    again = complete(client, upload_id)
    assert (again.status_code, again.json()["dataset"]) == (409, dataset_id)
    assert f"became the data set {dataset_id}" in again.json()["detail"]
    assert put(client, upload_id, 1).status_code == 409
    shown = client.get(f"/uploads/{upload_id}").json()
    assert (shown["state"], shown["dataset"], shown["received_bytes"]) == ("completed", dataset_id, len(DATA))
    assert client.delete(f"/uploads/{upload_id}").status_code == 204
    assert client.get(f"/datasets/{dataset_id}").status_code == 200


@ON_BOTH
def test_the_same_key_completes_an_upload_once_and_gives_the_first_answer_again(client, objects):
    upload_id = begin(client)
    send(client, upload_id)
    first, again = (complete(client, upload_id, key="k", name="Colours") for _ in range(2))
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(objects()) == 1
    assert complete(client, upload_id, key="k", name="Other").status_code == 422
    assert client.delete(f"/uploads/{upload_id}").status_code == 204
    assert complete(client, upload_id, key="k", name="Colours").json() == first.json()


@ON_BOTH
@pytest.mark.parametrize("key", [None, "k"])
def test_two_completions_at_the_same_moment_make_one_data_set(client, objects, api_database, key):
    for number in range(ROUNDS):
        upload_id = begin(client)
        send(client, upload_id)
        answers, gate = [], threading.Barrier(2)

        def ask(upload_id=upload_id, gate=gate, answers=answers, number=number):
            gate.wait()
            answers.append(complete(client, upload_id, key=key and f"{key}{number}"))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        codes = sorted(answer.status_code for answer in answers)
        assert codes in ([[202, 202], [202, 409]] if key else [[202, 409]])
        if key:  # the second saw the answer, or that it was on its way
            answers = [complete(client, upload_id, key=f"{key}{number}") for _ in range(2)]
        assert len({answer.json().get("id") or answer.json()["dataset"] for answer in answers}) == 1
        assert len(client.get("/datasets", params={"limit": 100}).json()["items"]) == number + 1
        assert len(objects()) == number + 1


@pytest.mark.parametrize(("data", "says"), [(b"%PDF-1.4", "PDF"), (colours(3)[:-30], "zip")])
def test_what_a_form_upload_refuses_is_refused_with_the_same_sentence(client, objects, data, says):
    upload_id = begin(client, data)
    for number in range(1, -(-len(data) // PART) + 1):
        put(client, upload_id, number, piece(number, data))
    before = objects()
    refused = errors_of(complete(client, upload_id))["#/upload"]
    as_form = errors_of(client.post("/datasets", files={"file": ("colours.zip", data)}))["#/file"]
    assert says in refused
    assert refused == as_form
    assert (objects(), client.get("/datasets").json()["items"]) == (before, [])
    assert client.get(f"/uploads/{upload_id}").json()["state"] == "pending"


def test_how_the_file_is_read_goes_with_the_completion(client):
    upload_id = begin(client)
    send(client, upload_id)
    assert list(errors_of(complete(client, upload_id, columns={"img": "a"}))) == ["#/columns/img"]
    assert list(errors_of(complete(client, upload_id, source="s3://open/a"))) == ["#/source"]
    made = complete(client, upload_id, name="Mine", columns={"image": "img"}, on_bad_row="skip").json()
    assert (made["name"], made["columns"], made["on_bad_row"]) == ("Mine", {"image": "img"}, "skip")


def test_a_part_whose_object_is_gone_is_503_and_nothing_is_made(client, objects, settings, api_database):
    upload_id = begin(client)
    send(client, upload_id)
    (settings.layout.storage / objects()[0]).unlink()
    answer = complete(client, upload_id)
    assert (answer.status_code, answer.json()["code"]) == (503, "storage")
    assert len(objects()) == NUM_PARTS - 1
    with api_database.read() as session:
        assert session.exec(select(Work)).all() == []
