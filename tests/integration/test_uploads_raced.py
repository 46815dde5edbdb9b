"""Uploads of which something changes while they are completed."""

import hashlib

import pytest

from api.datasets import creation
from api.datasets.uploaded import join
from core.storage import Storage
from tests.integration.test_api_inputs import errors_of
from tests.integration.uploading import DATA, NUM_PARTS, ON_BOTH, PART, begin, complete, put, send


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"upload_part_bytes": PART})


@pytest.fixture
def meanwhile(monkeypatch):
    """A function that has something happen when the parts were joined and the data set was not made yet."""

    def happens(act):
        def joined_then(*args):
            stored = join(*args)
            act()
            return stored

        monkeypatch.setattr(creation, "join", joined_then)

    return happens


@ON_BOTH
def test_a_part_that_comes_anew_while_the_parts_are_joined_is_a_409(client, objects, meanwhile):
    """The data set would have been made of bytes that its upload no longer has."""
    upload_id = begin(client)
    send(client, upload_id)
    put(client, upload_id, 2, b"x" * PART)
    meanwhile(lambda: put(client, upload_id, 2))
    answer = complete(client, upload_id)
    assert (answer.status_code, client.get("/datasets").json()["items"]) == (409, [])
    assert len(objects()) == NUM_PARTS
    assert complete(client, upload_id).json()["sha256"] == hashlib.sha256(DATA).hexdigest()


def test_an_upload_that_is_given_up_while_its_parts_are_joined_makes_nothing(client, objects, meanwhile):
    upload_id = begin(client)
    send(client, upload_id)
    meanwhile(lambda: client.delete(f"/uploads/{upload_id}"))
    assert "There is no upload" in errors_of(complete(client, upload_id))["#/upload"]
    assert (objects(), client.get("/datasets").json()["items"]) == ([], [])


def test_a_part_that_comes_after_its_upload_was_used_leaves_nothing(client, objects, monkeypatch):
    """It was on its way when the upload was completed with an older one."""
    upload_id = begin(client)
    send(client, upload_id)
    finish = Storage.finish

    def completed_then(storage, draft):
        monkeypatch.setattr(Storage, "finish", finish)
        assert complete(client, upload_id).status_code == 202
        return finish(storage, draft)

    monkeypatch.setattr(Storage, "finish", completed_then)
    assert put(client, upload_id, 1).status_code == 409
    assert len(objects()) == 1
