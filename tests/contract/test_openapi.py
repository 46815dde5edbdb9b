"""The schema of the API: a change of it is seen in the repository, and it says what the API does."""

import json

import pytest

from tests.contract.snapshot import SNAPSHOT, current

OPEN = {"/healthz", "/readyz"}


@pytest.fixture(scope="module")
def schema() -> dict:
    return json.loads(current())


def operations(schema):
    return [(path, verb, said) for path, verbs in schema["paths"].items() for verb, said in verbs.items()]


def test_the_schema_is_the_one_that_was_reviewed():
    assert current() == SNAPSHOT.read_text(), "`make openapi` writes it anew; look at the diff"


def test_every_refusal_is_a_problem_document_and_nothing_else(schema):
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    for path, verb, said in operations(schema):
        refusals = {status: answer for status, answer in said["responses"].items() if status >= "400"}
        for status, answer in refusals.items():
            expected = ["application/json"] if path == "/readyz" else ["application/problem+json"]
            assert list(answer["content"]) == expected, (path, verb, status)


def test_every_path_but_the_open_ones_may_want_the_key(schema):
    wanting = {path for path, _, said in operations(schema) if said.get("security") == [{"HTTPBearer": []}]}
    assert wanting == {path for path, _, _ in operations(schema)} - OPEN
    assert all(
        {"401", "403", "422"} <= said["responses"].keys() for path, _, said in operations(schema) if path in wanting
    )


def test_what_streams_says_so(schema):
    for path, verb in (("/infer", "post"), ("/jobs/{job_id}/logs", "get")):
        assert "text/event-stream" in schema["paths"][path][verb]["responses"]["200"]["content"]


def test_every_reference_leads_somewhere(schema):
    names = {line.split('"')[3].rpartition("/")[2] for line in current().splitlines() if '"$ref"' in line}
    assert names <= schema["components"]["schemas"].keys()
