"""A data set with bad rows, from the upload over a real worker to its report."""

import io
import json
import zipfile

import pytest
from PIL import Image

from core.queue import Queue
from core.storage import Storage
from models.states import Kind
from tests.conftest import wait_for
from tests.integration.conftest import colours, validation_of, zip_of
from worker.kinds import Rooms
from worker.runner import Slot


@pytest.fixture
def upload(client, api_database, settings):
    """A function that uploads bytes, lets a worker validate them, and returns the data set."""
    rooms = Rooms(api_database, Storage.from_url(settings.resolved_storage_url), settings.layout)
    slot = Slot(
        Queue.CPU,
        worker_id="wrk_1",
        database=api_database,
        settings=settings,
        kinds={Kind.VALIDATION: validation_of(rooms, settings)},
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


def faulty() -> bytes:
    """A zip with a byte order mark, an image that lies on its side, a transparent one, and two bad rows."""
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "side.jpg": picture(Image.new("RGB", (48, 32), "red"), "JPEG", exif=exif.tobytes()),
        "clear.png": picture(Image.new("RGBA", (48, 32), (0, 99, 0, 128)), "PNG"),
        "plain.webp": picture(Image.new("RGB", (48, 32), "blue"), "WEBP"),
    }
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Größe?"}]}
    rows = [{"images": [name], "messages": [user, *talk(i)[1:]]} for i, name in enumerate(list(files) * 6)]
    rows[0]["messages"] = [*rows[0]["messages"][:1], {"role": "assistant", "content": "x", "weight": 0}, *talk(0)]
    for name in ("black", "gray", "white"):  # more than we would choose ourselves
        files[f"{name}.png"] = picture(Image.new("RGB", (48, 32), name), "PNG")
        rows.append({"images": [f"{name}.png"], "messages": [user, *talk(99)[1:]], "split": "validation"})
    bad = [{"image": "gone.png", "caption": "x"}, {"image": "side.jpg", "question": "?", "answer": ""}]
    lines = [json.dumps(row).encode() for row in [*rows, *bad]]
    return zip_of(files | {"a.jsonl": b"\xef\xbb\xbf" + b"\n".join(lines)})


def picture(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_a_repaired_download_has_nothing_left_to_mend_and_the_same_digest(client, upload):
    dataset = upload(faulty(), "a.zip", on_bad_row="skip")
    assert (dataset["state"], dataset["num_skipped"]) == ("ready", 2)
    answers = [client.get(f"/datasets/{dataset['id']}/download") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content
    names = zipfile.ZipFile(io.BytesIO(answers[0].content)).namelist()
    assert sorted(name.partition(".")[2] for name in names) == ["jpg", "jsonl", *["png"] * 4, "webp"]
    again = upload(answers[0].content, "b.zip")
    report = client.get(f"/datasets/{again['id']}/report").json()
    assert (again["state"], again["digest"], again["splits"]) == ("ready", dataset["digest"], dataset["splits"])
    assert report["issues"] == []
    third = client.get(f"/datasets/{again['id']}/download").content
    assert third == answers[0].content


def test_a_set_that_is_not_ready_has_no_download_and_says_so(client, upload):
    dataset = upload(lines(12, b"{"))
    answer = client.get(f"/datasets/{dataset['id']}/download")
    assert answer.status_code == 409
    assert f"is failed. GET /datasets/{dataset['id']}/report says what is wrong" in answer.json()["detail"]
    assert client.get("/datasets/ds_x/download").status_code == 404


def test_a_download_of_which_an_image_is_lost_is_refused_and_not_broken_off(client, upload, settings):
    dataset = upload(colours(12), "a.zip")
    storage = Storage.from_url(settings.resolved_storage_url)
    storage.delete(min(storage.keys("default/images")))
    assert client.get(f"/datasets/{dataset['id']}/download").status_code == 503
