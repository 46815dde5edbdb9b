"""A data set with bad rows, from the upload over a real worker to its report."""

import io
import json

import pytest

from core.queue import Queue
from core.storage import Storage
from models.states import Kind
from tests.conftest import wait_for
from tests.integration.conftest import colours
from worker.kinds import Rooms
from worker.runner import Slot
from worker.validation import Validation


@pytest.fixture
def upload(client, api_database, settings):
    """A function that uploads bytes, lets a worker validate them, and returns the data set."""
    rooms = Rooms(api_database, Storage.from_url(settings.resolved_storage_url), settings.layout)
    slot = Slot(
        Queue.CPU,
        worker_id="wrk_1",
        database=api_database,
        settings=settings,
        kinds={Kind.VALIDATION: Validation(rooms)},
    )
    slot.start()

    def send(data: bytes, name: str = "data.jsonl", **form: str) -> dict:
        made = client.post("/datasets", files={"file": (name, io.BytesIO(data))}, data=form).json()
        path = f"/datasets/{made['id']}"
        wait_for(lambda: client.get(path).json()["state"] != "validating", what="the validation")
        return client.get(path).json()

    yield send
    slot.stop()
    slot.join()


def lines(count: int, *bad: bytes) -> bytes:
    good = [json.dumps({"messages": talk(i)}).encode() for i in range(count)]
    return b"\n".join([*good, *bad]) + b"\n"


def talk(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": str(number)}]


def test_bad_rows_refuse_a_set_unless_they_are_to_be_skipped(client, upload):
    data = lines(12, b"{", b'{"caption": "x"}', b"[")
    refused, ready = upload(data), upload(data, on_bad_row="skip")
    assert (refused["state"], refused["on_bad_row"], refused["num_skipped"]) == ("failed", "fail", None)
    assert (ready["state"], ready["on_bad_row"], ready["num_skipped"]) == ("ready", "skip", 3)
    assert (ready["num_examples"], ready["failure"]) == (12, None)
    report = client.get(f"/datasets/{ready['id']}/report")
    assert report.headers["content-type"] == "application/json"
    assert sorted(row for group in report.json()["skipped"] for row in group["rows"]) == [13, 14, 15]
    assert client.get(f"/datasets/{refused['id']}/report").json()["refusal"]["row"] == 13


def test_another_answer_about_bad_rows_is_refused(client):
    answer = client.post("/datasets", files={"file": ("a.zip", io.BytesIO(colours(3)))}, data={"on_bad_row": "drop"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].endswith("on_bad_row")


def test_one_key_for_two_ways_with_bad_rows_is_refused(client):
    answers = [
        client.post(
            "/datasets",
            files={"file": ("a.zip", io.BytesIO(colours(3)))},
            data={"on_bad_row": way},
            headers={"Idempotency-Key": "u1"},
        )
        for way in ("fail", "skip")
    ]
    assert [answer.status_code for answer in answers] == [202, 422]
