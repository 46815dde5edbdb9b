"""Random sequences of what users ask and what happens to workers, held against a small model of the states.

The model is written out here and reads none of the code's tables.
"""

from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlmodel import col, select

from core.db import NowS
from core.queue import Queue
from models import claims, event, expiry, leases
from models.checkpoint import Checkpoint
from models.event import Event, Item
from models.idempotency import IdempotencyKey
from models.job import Job
from models.leases import Claim
from models.states import AttemptOutcome, EventKind, Kind, WorkState
from models.work import Attempt, Work, attempts_of
from tests.integration.lifecycles import BODY, FAILURE

MAX_ATTEMPTS = 3
LEASE_S = 60.0
MAX_JOBS = 3
LEASED = {"running", "pausing", "cancelling"}
ENDED = {"succeeded", "failed", "cancelled"}

# What each action leads to, and where asking again is no error.
ASKED = {
    "cancel": {"queued": "cancelled", "running": "cancelling", "paused": "cancelled"},
    "pause": {"running": "pausing"},
    "resume": {"paused": "queued"},
    "retry": {"failed": "queued", "cancelled": "queued"},
}
ASKED_AGAIN = {
    "cancel": {"cancelling", "cancelled"},
    "pause": {"pausing", "paused"},
    "resume": {"queued", "running"},
    "retry": {"queued", "running"},
}
# What a worker's end of an attempt leads to, from the state in which it finds its job.
WORKERS = {
    "succeeded": {"running": "succeeded"},
    "failed": {"running": "failed", "pausing": "failed"},
    "cancelled": {"cancelling": "cancelled"},
    "paused": {"pausing": "paused"},
    "given back": {"running": "queued"},
    "tried again": {"running": "queued", "pausing": "paused"},
}
LOST = {"running": "queued", "pausing": "paused", "cancelling": "cancelled"}

WHICH = st.integers(0, MAX_JOBS - 1)
NEWEST_FIRST = st.integers(0, 4)


@dataclass
class Modelled:
    """A job as it should stand."""

    id: str
    state: str = "queued"
    fence: int = 0
    last_seq: int = 1
    lost: int = 0
    failed: int = 0
    successes: int = 0
    is_deleted: bool = False
    keys: set[str] = field(default_factory=set)

    def move(self, state: str) -> None:
        self.state = state
        self.last_seq += 1
        self.successes += state == "succeeded"

    def lose(self) -> None:
        self.lost += 1
        is_last = self.lost >= MAX_ATTEMPTS and self.state != "cancelling"
        self.move("failed" if is_last else LOST[self.state])


class Lifecycle(RuleBasedStateMachine):
    def __init__(self, client, database):
        super().__init__()
        self.client, self.database = client, database
        self.jobs: list[Modelled] = []
        self.claims: list[Claim] = []
        with database.write() as session:  # what the example before left
            for table in (Checkpoint, Event, Attempt, Job, IdempotencyKey):
                session.execute(sa.delete(table))
            session.execute(sa.delete(Work).where(col(Work.kind) == Kind.TRAINING))

    def job_of(self, claim: Claim) -> Modelled:
        (job,) = [job for job in self.jobs if job.id == claim.work_id]
        return job

    def holds(self, claim: Claim) -> bool:
        job = self.job_of(claim)
        return job.fence == claim.fence and job.state in LEASED

    def pick(self, back: int) -> Claim:
        return self.claims[-1 - back % len(self.claims)]

    # What users do.

    @rule(key=st.sampled_from(["a", "b", None]))
    def submit(self, key):
        known = [job for job in self.jobs if key in job.keys]
        if not known and len(self.jobs) == MAX_JOBS:
            return
        answer = self.client.post("/jobs", json=BODY, headers={"Idempotency-Key": key} if key else {})
        assert answer.status_code == 202
        if known:
            assert answer.json()["id"] == known[0].id, "the same key is the same job, whatever became of it"
        else:
            self.jobs.append(Modelled(answer.json()["id"], keys={key} if key else set()))

    @precondition(lambda self: self.jobs)
    @rule(which=WHICH, action=st.sampled_from(list(ASKED)), anew=st.booleans())
    def ask_anything(self, which, action, anew):
        self._ask(self.jobs[which % len(self.jobs)], action, anew=anew)

    @precondition(lambda self: self.allowed())
    @rule(which=st.integers(0, 20), anew=st.booleans())
    def ask_what_is_allowed(self, which, anew):
        job, action = self.allowed()[which % len(self.allowed())]
        self._ask(job, action, anew=anew)

    def allowed(self) -> list[tuple[Modelled, str]]:
        there = [job for job in self.jobs if not job.is_deleted]
        return [(job, action) for job in there for action, moves in ASKED.items() if job.state in moves]

    def _ask(self, job, action, *, anew):
        body = {"json": {"from_checkpoint": not anew}} if action == "retry" else {}
        answer = self.client.post(f"/jobs/{job.id}/{action}", **body)
        if job.is_deleted:
            assert answer.status_code == 404
        elif job.state in ASKED[action]:
            if action == "retry":
                job.lost = job.failed = 0
            job.move(ASKED[action][job.state])
            assert (answer.status_code, answer.json()["state"]) == (200, job.state)
        elif job.state in ASKED_AGAIN[action]:
            assert (answer.status_code, answer.json()["state"]) == (200, job.state)
        else:
            allowed = {name for name, moves in ASKED.items() if job.state in moves}
            allowed |= {"delete"} if job.state in ENDED else set()
            assert (answer.status_code, answer.json()["state"]) == (409, job.state)
            assert set(answer.json()["allowed"]) == allowed

    @precondition(lambda self: self.jobs)
    @rule(which=WHICH)
    def delete(self, which):
        job = self.jobs[which % len(self.jobs)]
        code = self.client.delete(f"/jobs/{job.id}").status_code
        if job.is_deleted:
            assert code == 404
        else:
            assert code == (204 if job.state in ENDED else 409)
            job.is_deleted = job.state in ENDED
        shown = [job["id"] for job in self.client.get("/jobs").json()["items"]]
        assert shown == sorted((job.id for job in self.jobs if not job.is_deleted), reverse=True)

    # What workers do, and what happens to them.

    @rule()
    def claim(self):
        with self.database.write() as session:
            claimed = claims.claim(session, Queue.GPU, worker_id="w", lease_s=LEASE_S)
        waiting = sorted(job.id for job in self.jobs if job.state == "queued")
        assert (claimed.work_id if claimed else None) == (waiting[0] if waiting else None)
        if claimed:
            job = self.job_of(claimed)
            assert claimed.fence > job.fence, "a fence only grows"
            job.fence = claimed.fence
            job.move("running")
            self.claims.append(claimed)

    @precondition(lambda self: self.claims)
    @rule(back=NEWEST_FIRST)
    def heartbeat(self, back):
        claim = self.pick(back)
        with self.database.write() as session:
            state = leases.heartbeat(session, claim, lease_s=LEASE_S)
        assert state == (self.job_of(claim).state if self.holds(claim) else None)

    @precondition(lambda self: self.claims)
    @rule(back=NEWEST_FIRST, count=st.integers(1, 3))
    def write(self, back, count):
        claim, job = self.pick(back), self.job_of(self.pick(back))
        items = [Item(kind=EventKind.LOG, message="m")] * count
        with self.database.write() as session:
            state = event.append(session, claim.work_id, items, fence=claim.fence)
        assert state == (job.state if self.holds(claim) else None)
        job.last_seq += count if state else 0

    @precondition(lambda self: self.claims)
    @rule(back=NEWEST_FIRST, end=st.sampled_from(list(WORKERS)))
    def end_somehow(self, back, end):
        self._end(self.pick(back), end)

    @precondition(lambda self: any(self.holds(claim) for claim in self.claims))
    @rule(which=st.integers(0, 20))
    def end_as_it_may(self, which):
        held = [claim for claim in self.claims if self.holds(claim)]
        ways = [(claim, end) for claim in held for end, moves in WORKERS.items() if self.job_of(claim).state in moves]
        self._end(*ways[which % len(ways)])

    def _end(self, claim, end):
        job = self.job_of(claim)
        may = self.holds(claim) and job.state in WORKERS[end]
        if end == "tried again":
            may = may and job.failed + 1 < MAX_ATTEMPTS
        with self.database.write() as session:
            assert self._write_end(session, claim, end) == may, (end, job)
        if may:
            job.failed += end == "tried again"
            job.move(WORKERS[end][job.state])

    def _write_end(self, session, claim, end) -> bool:
        if end == "paused":
            return leases.pause(session, claim)
        if end == "given back":
            return leases.give_back(session, claim, reason="deploy")
        if end == "tried again":
            return leases.try_again(session, claim, FAILURE, max_attempts=MAX_ATTEMPTS, retry_s=0.0)
        return leases.finish(session, claim, WorkState(end), failure=FAILURE if end == "failed" else None)

    @precondition(lambda self: self.claims)
    @rule(back=NEWEST_FIRST)
    def gain(self, back):
        claim, job = self.pick(back), self.job_of(self.pick(back))
        if self.holds(claim):
            with self.database.write() as session:
                leases.gained(session, claim)
            job.lost = job.failed = 0

    @precondition(lambda self: self.claims)
    @rule(back=NEWEST_FIRST)
    def kill_the_child(self, back):
        claim, job = self.pick(back), self.job_of(self.pick(back))
        may = self.holds(claim)
        with self.database.write() as session:
            came_to = expiry.lose(session, claim, max_attempts=MAX_ATTEMPTS, what="Its process was killed")
        if may:
            job.lose()
        assert came_to == (job.state if may else None)

    @precondition(lambda self: any(job.state in LEASED for job in self.jobs))
    @rule(which=WHICH)
    def kill_the_worker(self, which):
        held = [job for job in self.jobs if job.state in LEASED]
        job = held[which % len(held)]
        with self.database.write() as session:
            session.execute(sa.update(Work).where(col(Work.id) == job.id).values(lease_until_s=NowS() - 1))
        with self.database.write() as session:
            over = expiry.Expiry(lease_s=LEASE_S, confirm_s=0).over(session)
            assert expiry.sweep(session, max_attempts=MAX_ATTEMPTS, over=over).expired == (job.id,)
        job.lose()

    @precondition(lambda self: any(job.state == "running" for job in self.jobs))
    @rule(which=WHICH, count=st.integers(1, 2))
    def wake_after_another_has_the_job(self, which, count):
        stale = [claim for claim in self.claims if self.holds(claim)]
        self.kill_the_worker(which)
        self.claim()
        for claim in stale:
            back = len(self.claims) - 1 - self.claims.index(claim)
            self.heartbeat(back)
            self.write(back, count)
            for end in WORKERS:
                if not self.holds(claim):
                    self._end(claim, end)

    @rule()
    def sweep(self):
        with self.database.write() as session:
            over = expiry.Expiry(lease_s=LEASE_S, confirm_s=0).over(session)
            assert expiry.sweep(session, max_attempts=MAX_ATTEMPTS, over=over).expired == ()

    # What holds at every moment.

    @invariant()
    def every_job_stands_where_the_model_says_and_succeeded_once_at_most(self):
        with self.database.read() as session:
            for job in self.jobs:
                work = session.get_one(Work, job.id)
                stands = (work.state.value, work.fence, work.last_seq, work.lost_attempts, work.failed_attempts)
                assert stands == (job.state, job.fence, job.last_seq, job.lost, job.failed), job
                assert (work.lease_owner is not None) == (job.state in LEASED)
                assert (work.finished_at is not None) == (job.state in ENDED)
                assert (work.failure is not None) == (job.state == "failed")
                seqs = session.exec(select(Event.seq).where(Event.work_id == job.id).order_by(col(Event.seq))).all()
                told = [] if job.is_deleted else list(range(1, job.last_seq + 1))
                assert list(seqs) == told, "numbers without gaps, and none of what was deleted"
                attempts = attempts_of(session, job.id)
                assert [attempt.fence for attempt in attempts] == list(range(1, job.fence + 1))
                still_open = [attempt.number for attempt in attempts if attempt.outcome is None]
                assert still_open == ([len(attempts)] if job.state in LEASED else [])
                succeeded = [attempt for attempt in attempts if attempt.outcome is AttemptOutcome.SUCCEEDED]
                assert len(succeeded) == job.successes <= 1


@pytest.mark.parametrize(("client", "max_examples"), [("sqlite", 50), ("postgres", 8)], indirect=["client"])
def test_whatever_is_asked_and_whatever_dies_the_states_are_the_models(
    client, max_examples, api_database, ready_dataset
):
    run_state_machine_as_test(
        lambda: Lifecycle(client, api_database),
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )
