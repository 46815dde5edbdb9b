"""What has to be true of every job, however the servers were hurt: each check has a name and says what it missed."""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import select

from core.storage import Storage
from models import event
from models.adapter import Adapter
from models.event import Event
from models.states import AttemptOutcome, EventKind, WorkState
from models.work import Attempt, Work, attempts_of
from tests.soak.load import Followed, Load
from tests.soak.servers import Servers

_OF_THE_CLOCK = frozenset({"examples_per_s", "eta_s"})
_ELSEWHERE = frozenset({"epoch", "total_steps"})  # the API has them beside the figures
_TICK_S = 0.002  # SQLite's clock has milliseconds
MANY = 100_000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run comes to: the same for an undisturbed one and for any other."""

    curve: list[dict[str, Any]]
    weights: tuple[str, ...]  # the sha256 of each adapter's; one, if all is well


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that is known of a job that has ended: its rows, its objects, what the API and its follower say."""

    job: Followed
    work: Work
    attempts: Sequence[Attempt]
    items: Sequence[Event]
    outcome: Outcome
    shown_curve: list[dict[str, Any]]
    id_of_the_same_request: str
    expected: Outcome


def outcome_of(servers: Servers, job_id: str) -> Outcome:
    """Return the curve of a job and the sha256 of its weights."""
    with servers.database.read() as session:
        items = event.page(session, job_id, after=0, limit=MANY)
        adapters = session.exec(select(Adapter).where(Adapter.job_id == job_id)).all()
    storage = Storage.from_url(servers.settings.resolved_storage_url)
    weights = [storage.read(f"{adapter.prefix}/adapter_model.safetensors") for adapter in adapters]
    return Outcome(
        curve=[_timeless(item.data) for item in items if item.kind is EventKind.METRIC],
        weights=tuple(hashlib.sha256(each).hexdigest() for each in weights),
    )


def evidence_of(servers: Servers, load: Load, job: Followed, expected: Outcome) -> Evidence:
    """Collect what is known of a job."""
    assert job.id is not None
    with servers.database.read() as session:
        work = session.get_one(Work, job.id)
        attempts = attempts_of(session, job.id)
        items = event.page(session, job.id, after=0, limit=MANY)
    return Evidence(
        job=job,
        work=work,
        attempts=attempts,
        items=items,
        outcome=outcome_of(servers, job.id),
        shown_curve=[_timeless(figures) for figures in load.curve(job.id)],
        id_of_the_same_request=load.submit_again(job),
        expected=expected,
    )


def check_job(servers: Servers, load: Load, job: Followed, expected: Outcome) -> Evidence:
    """Check one job that has ended; return what the checks saw."""
    if job.error is not None:
        raise AssertionError(f"{job.id}: its client broke: {job.error!r}") from job.error
    evidence = evidence_of(servers, load, job, expected)
    for check in CHECKS:
        try:
            check(evidence)
        except AssertionError as failed:
            raise AssertionError(f"{job.id}: {check.__name__}: {failed}") from failed
    return evidence


def ended_well(seen: Evidence) -> None:
    assert seen.work.state == WorkState.SUCCEEDED, f"it is {seen.work.state}: {seen.work.failure}"
    assert seen.job.ended == WorkState.SUCCEEDED, f"its follower heard of {seen.job.ended}"
    ends = [item.seq for item in seen.items if item.message == "Succeeded."]
    assert ends == [seen.work.last_seq], f"it ended at {ends} of {seen.work.last_seq}"


def made_one_adapter(seen: Evidence) -> None:
    assert len(seen.outcome.weights) == 1, f"it made {len(seen.outcome.weights)} adapters"


def is_nobodys_any_more(seen: Evidence) -> None:
    lease = (seen.work.lease_owner, seen.work.lease_until_s)
    assert lease == (None, None), f"it is still leased: {lease}"


def was_submitted_once(seen: Evidence) -> None:
    again = seen.id_of_the_same_request
    assert again == seen.job.id, f"the same key and body answered with {again}"


def log_is_whole(seen: Evidence) -> None:
    numbers = [item.seq for item in seen.items]
    wrong = _wrong(numbers, seen.work.last_seq)
    assert not wrong, f"its rows miss or double {wrong}"


def follower_saw_the_log(seen: Evidence) -> None:
    wrong = _wrong([item["seq"] for item in seen.job.items], seen.work.last_seq)
    assert not wrong, f"its follower missed or doubled {wrong} over {seen.job.reconnects} reconnects"
    for told, item in zip(seen.job.items, seen.items, strict=True):
        same = (item.kind, item.attempt, item.level, item.message, item.data)
        assert tuple(told[name] for name in ("kind", "attempt", "level", "message", "data")) == same, (
            f"its follower saw another item {item.seq}"
        )


def every_claim_has_an_attempt(seen: Evidence) -> None:
    claims = [item.message for item in seen.items if (item.message or "").endswith(" started.")]
    wanted = list(range(1, seen.work.fence + 1))
    assert claims == [f"Attempt {number} started." for number in wanted], f"{claims} with fence {seen.work.fence}"
    rows = [(each.number, each.fence) for each in seen.attempts]
    assert rows == [(number, number) for number in wanted], f"attempts {rows} with fence {seen.work.fence}"


def every_attempt_is_closed(seen: Evidence) -> None:
    outcomes = [each.outcome for each in seen.attempts]
    assert None not in outcomes, f"an attempt is open: {outcomes}"
    assert outcomes.count(AttemptOutcome.SUCCEEDED) == 1, f"not one success: {outcomes}"
    assert outcomes[-1] == AttemptOutcome.SUCCEEDED, f"attempts after the success: {outcomes}"
    failures = [each.failure for each in seen.attempts if each.outcome is AttemptOutcome.FAILED]
    assert not failures, f"an attempt failed by itself: {failures}"


def attempts_follow_each_other(seen: Evidence) -> None:
    for one, next_one in itertools.pairwise(seen.attempts):
        assert one.ended_s is not None, f"attempt {one.number} has no end"
        assert one.ended_s <= next_one.began_s + _TICK_S, f"attempt {next_one.number} began before {one.number} ended"
        assert one.last_seq is not None, f"attempt {one.number} has no last item"
        assert one.last_seq < next_one.first_seq, f"attempts {one.number} and {next_one.number} share items"
    ranges = {each.number: range(each.first_seq, (each.last_seq or 0) + 1) for each in seen.attempts}
    for item in seen.items:
        if item.kind in {EventKind.METRIC, EventKind.CHECKPOINT}:
            assert item.seq in ranges[item.attempt], f"item {item.seq} is not within attempt {item.attempt}"


def went_on_from_its_newest_checkpoint(seen: Evidence) -> None:
    for attempt in seen.attempts:
        before = [item for item in seen.items if item.seq < attempt.first_seq and item.kind is EventKind.CHECKPOINT]
        newest = int((before[-1].data or {})["step"]) if before else None
        if _trained(seen, attempt) or attempt.resumed_step is not None:
            assert attempt.resumed_step == newest, (
                f"attempt {attempt.number} went on from {attempt.resumed_step}, and {newest} was saved"
            )
    saved = [(item.data or {})["step"] for item in seen.items if item.kind is EventKind.CHECKPOINT]
    assert saved == sorted(saved), f"its checkpoints went back: {saved}"


def curve_is_the_undisturbed_one(seen: Evidence) -> None:
    steps, wanted = ([_step(each) for each in of.curve] for of in (seen.outcome, seen.expected))
    assert steps == wanted, f"steps {steps} in place of {wanted}"
    for figures, expected in zip(seen.outcome.curve, seen.expected.curve, strict=True):
        assert figures == expected, f"step {figures['step']}: {figures} in place of {expected}"


def api_shows_the_curve(seen: Evidence) -> None:
    curve = [{name: each[name] for name in each if name not in _ELSEWHERE} for each in seen.outcome.curve]
    assert seen.shown_curve == curve, f"it shows {[_step(each) for each in seen.shown_curve]}"


def weights_are_the_undisturbed_ones(seen: Evidence) -> None:
    assert seen.outcome.weights == seen.expected.weights, f"{seen.outcome.weights} in place of {seen.expected.weights}"


CHECKS: tuple[Callable[[Evidence], None], ...] = (
    ended_well,
    made_one_adapter,
    is_nobodys_any_more,
    was_submitted_once,
    log_is_whole,
    follower_saw_the_log,
    every_claim_has_an_attempt,
    every_attempt_is_closed,
    attempts_follow_each_other,
    went_on_from_its_newest_checkpoint,
    curve_is_the_undisturbed_one,
    api_shows_the_curve,
    weights_are_the_undisturbed_ones,
)


def _timeless(figures: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (figures or {}).items() if name not in _OF_THE_CLOCK}


def _step(figures: dict[str, Any]) -> tuple[int, bool]:
    return figures["step"], "eval_loss" in figures


def _wrong(numbers: list[int], last: int) -> list[int]:
    """Return what is not there exactly once and in its place of 1, 2, ... last."""
    if numbers == list(range(1, last + 1)):
        return []
    return [number for number in range(1, max([last, *numbers]) + 1) if numbers.count(number) != 1] or numbers


def _trained(seen: Evidence, attempt: Attempt) -> bool:
    return any(item.attempt == attempt.number and (item.data or {}).get("phase") == "training" for item in seen.items)
