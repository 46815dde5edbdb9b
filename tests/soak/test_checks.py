"""The checks of the soak can fail: each is shown a job with one thing wrong."""

import dataclasses

import pytest

from models.event import Event
from models.states import AttemptOutcome, EventKind, Kind, WorkState
from models.work import Attempt, Work
from tests.soak import checks
from tests.soak.checks import CHECKS, Evidence, Outcome
from tests.soak.load import Followed

CURVE = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
LOG = (
    (1, EventKind.EVENT, "Attempt 1 started.", None),
    (1, EventKind.EVENT, "Phase: training.", {"phase": "training"}),
    (1, EventKind.METRIC, None, CURVE[0]),
    (1, EventKind.CHECKPOINT, "Step 1 is saved.", {"step": 1}),
    (1, EventKind.EVENT, "Its worker is gone; queued again (attempt 1 lost).", None),
    (2, EventKind.EVENT, "Attempt 2 started.", None),
    (2, EventKind.EVENT, "Phase: training.", {"phase": "training"}),
    (2, EventKind.METRIC, None, CURVE[1]),
    (2, EventKind.EVENT, "Succeeded.", None),
)


@pytest.fixture
def seen() -> Evidence:
    """A job whose first attempt was lost behind its first step, and that is as it should be."""
    items = [
        Event(work_id="job_1", seq=seq, kind=kind, message=message, data=data, attempt=attempt)
        for seq, (attempt, kind, message, data) in enumerate(LOG, start=1)
    ]
    common = {"work_id": "job_1", "worker_id": "wrk_1"}
    lost = {"first_seq": 1, "last_seq": 5, "began_s": 1.0, "ended_s": 2.0, "outcome": AttemptOutcome.WORKER_LOST}
    ended = {"first_seq": 6, "last_seq": 9, "began_s": 2.0, "ended_s": 3.0, "outcome": AttemptOutcome.SUCCEEDED}
    followed = [item.model_dump(include={"seq", "kind", "attempt", "level", "message", "data"}) for item in items]
    return Evidence(
        job=Followed(variant=0, id="job_1", items=followed, ended="succeeded"),
        work=Work(id="job_1", kind=Kind.TRAINING, queue="gpu", state=WorkState.SUCCEEDED, fence=2, last_seq=9),
        attempts=[Attempt(number=1, fence=1, **common, **lost), Attempt(number=2, fence=2, **common, **ended)],
        items=items,
        outcome=Outcome(curve=CURVE, weights=("a",)),
        shown_curve=CURVE,
        id_of_the_same_request="job_1",
        expected=Outcome(curve=CURVE, weights=("a",)),
    )


def failed_checks(seen):
    """Return the names of the checks that such a job fails."""
    failed = []
    seen.attempts[-1].resumed_step = 1 if seen.attempts[-1].resumed_step is None else seen.attempts[-1].resumed_step
    for check in CHECKS:
        try:
            check(seen)
        except AssertionError:
            failed.append(check.__name__)
    return failed


def test_a_job_that_is_as_it_should_be_passes(seen):
    assert failed_checks(seen) == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("was_submitted_once", {"id_of_the_same_request": "job_2"}),
        ("made_one_adapter", {"outcome": Outcome(curve=CURVE, weights=("a", "a"))}),
        ("weights_are_the_undisturbed_ones", {"outcome": Outcome(curve=CURVE, weights=("b",))}),
        ("curve_is_the_undisturbed_one", {"outcome": Outcome(curve=[CURVE[0]], weights=("a",))}),
        ("curve_is_the_undisturbed_one", {"outcome": Outcome(curve=[*CURVE, CURVE[1]], weights=("a",))}),
        (
            "curve_is_the_undisturbed_one",
            {"expected": Outcome(curve=[CURVE[0], CURVE[1] | {"loss": 1.1}], weights=("a",))},
        ),
        ("api_shows_the_curve", {"shown_curve": CURVE[:1]}),
    ],
)
def test_another_answer_or_outcome_is_seen(seen, name, changes):
    assert name in failed_checks(dataclasses.replace(seen, **changes))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ended_well", {"state": WorkState.FAILED}),
        ("is_nobodys_any_more", {"lease_owner": "wrk_1"}),
        ("is_nobodys_any_more", {"lease_until_s": 4.0}),
        ("log_is_whole", {"last_seq": 10}),
        ("every_claim_has_an_attempt", {"fence": 3}),
    ],
)
def test_a_wrong_row_is_seen(seen, name, changes):
    for column, value in changes.items():
        setattr(seen.work, column, value)
    assert name in failed_checks(seen)


@pytest.mark.parametrize(
    ("name", "number", "changes"),
    [
        ("every_attempt_is_closed", 1, {"outcome": None}),
        ("every_attempt_is_closed", 1, {"outcome": AttemptOutcome.SUCCEEDED}),
        ("every_attempt_is_closed", 1, {"outcome": AttemptOutcome.FAILED, "failure": {"code": "storage"}}),
        ("attempts_follow_each_other", 2, {"began_s": 1.5}),
        ("attempts_follow_each_other", 2, {"first_seq": 5}),
        ("attempts_follow_each_other", 1, {"last_seq": 3}),
        ("went_on_from_its_newest_checkpoint", 2, {"resumed_step": 0}),
        ("every_claim_has_an_attempt", 2, {"fence": 3}),
    ],
)
def test_a_wrong_attempt_is_seen(seen, name, number, changes):
    for column, value in changes.items():
        setattr(seen.attempts[number - 1], column, value)
    assert name in failed_checks(seen)


def test_a_row_of_the_log_that_is_missing_or_there_twice_is_seen(seen):
    assert "log_is_whole" in failed_checks(dataclasses.replace(seen, items=seen.items[:3] + seen.items[4:]))
    assert "log_is_whole" in failed_checks(dataclasses.replace(seen, items=[*seen.items[:4], *seen.items[3:]]))


def test_an_item_that_the_follower_missed_doubled_or_saw_changed_is_seen(seen):
    whole = seen.job.items
    for items in (
        whole[1:],
        [*whole, whole[-1]],
        [whole[1], whole[0], *whole[2:]],
        [whole[0] | {"data": {}}, *whole[1:]],
    ):
        seen.job.items = items
        assert "follower_saw_the_log" in failed_checks(seen)


def test_a_message_tells_what_is_missing_and_what_is_there_twice():
    assert checks._wrong([1, 2, 2, 4], 5) == [2, 3, 5]
    assert checks._wrong([2, 1], 2) == [2, 1]
    assert checks._wrong([1, 2], 2) == []
