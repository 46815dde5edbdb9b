"""What a client does to upload a file in parts."""

import pytest

from tests.integration.conftest import colours

PART = 250
DATA = colours(12)
NUM_PARTS = -(-len(DATA) // PART)
ON_BOTH = pytest.mark.parametrize("client", ["sqlite", "postgres"], indirect=True)


def begin(client, data=DATA, **changes) -> str:
    answer = client.post("/uploads", json={"filename": "colours.zip", "size_bytes": len(data)} | changes)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def piece(number, data=DATA) -> bytes:
    return data[(number - 1) * PART : number * PART]


def put(client, upload_id, number, content=None, **headers):
    content = piece(number) if content is None else content
    return client.put(f"/uploads/{upload_id}/parts/{number}", content=content, headers=headers)


def send(client, upload_id, numbers=range(1, NUM_PARTS + 1)) -> None:
    for number in numbers:
        assert put(client, upload_id, number).status_code == 200


def complete(client, upload_id, key=None, **more):
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/datasets", json={"upload": upload_id} | more, headers=headers)
