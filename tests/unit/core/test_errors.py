"""The vocabulary of errors crosses process borders and says what it must."""

import pickle

import pytest

from core.errors import PROBLEMS, FailureCode, FieldError, Invalid, NotFound, WorkFailed


@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_problem_survives_pickling_whole(kind):
    problem = kind("what is wrong", errors=(FieldError(pointer="#/a", detail="b"),), state="queued")
    again = pickle.loads(pickle.dumps(problem))
    assert type(again) is kind
    assert again.document("req_1") == problem.document("req_1")


def test_a_failure_survives_pickling_whole():
    failed = WorkFailed(FailureCode.STORAGE, "the disk is full", remedy="make room", retryable=True)
    again = pickle.loads(pickle.dumps(failed))
    assert (again.code, again.detail, again.remedy, again.retryable) == (failed.code, failed.detail, "make room", True)


def test_a_problem_document_has_the_members_of_rfc_9457():
    document = Invalid.field("#/method/r", "r is too large.").document("req_1")
    assert document == {
        "type": "/problems/invalid",
        "title": "Invalid request",
        "status": 422,
        "detail": "r is too large.",
        "instance": "req_1",
        "errors": [{"pointer": "#/method/r", "detail": "r is too large."}],
    }
    assert "errors" not in NotFound("x").document("req_1")


def test_slugs_and_statuses_are_unique_per_kind():
    assert len({kind.slug for kind in PROBLEMS}) == len(PROBLEMS)
    assert all(kind.__doc__ for kind in PROBLEMS)
