"""From rows to `estimated_start` and `estimated_finish`, over HTTP, on both databases."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from unittest.mock import Mock

import pytest
import sqlalchemy as sa

from api.jobs.estimates import FRESH_S, Estimates
from core.clock import utc_now
from core.db import NowS
from core.queue import Queue
from models import queue
from models.job import Job
from models.states import Kind, WorkState
from models.work import Attempt, Work
from models.worker import Worker
from tests.conftest import wait_for

BOTH = pytest.mark.parametrize("client", ["sqlite", "postgres"], indirect=True)
MARGIN = timedelta(seconds=30)


@pytest.fixture
def client(client):
    """The API; the parameter names its database."""
    return client


def rows_of(name, state, *, planned=100, progress=None, **values):
    work = Work(id=f"job_{name}", kind=Kind.TRAINING, queue=Queue.GPU, state=state, **values)
    request = {"method": {}, "hyperparameters": {}, "image": {}}
    job = Job(
        id=work.id, name=name, base_model="tiny", dataset_id="ds_ready", dataset_digest="d", seed=0, request=request,
        planned_examples=planned, progress=progress,
    )  # fmt: skip
    return work, job


@BOTH
def test_a_queue_of_measured_jobs_tells_when_each_starts_and_ends(client, api_database, ready_dataset):
    with api_database.write() as session:
        at = session.execute(sa.select(NowS())).scalar_one()
        progress = {"step": 5, "total_steps": 10, "eta_s": 400.0, "at": at - 100}
        for work, job in (
            rows_of("1done", WorkState.SUCCEEDED, finished_at=utc_now()),
            rows_of("2runs", WorkState.RUNNING, progress=progress, lease_owner="w1", lease_until_s=at + 600),
            rows_of("3half", WorkState.QUEUED, progress={"step": 5, "total_steps": 10}),
            rows_of("4next", WorkState.QUEUED, planned=200),
            rows_of("5class", WorkState.QUEUED, resource_class="l4"),
        ):
            session.add(work)
            session.flush()
            session.add(job)
        session.flush()
        session.add(
            Attempt(
                work_id="job_1done", number=1, fence=1, worker_id="w1", first_seq=1,
                began_s=at - 2000, ended_s=at - 1000, ended_at=utc_now(),
            )
        )  # fmt: skip
        session.add(
            Worker(
                id="w1", queue=Queue.GPU, host="h", pid=1, version="1", capacity={"gpus": 0, "classes": []},
                started_at_s=at, heartbeat_at_s=at + 3600,
            )
        )  # fmt: skip
    begin = utc_now()
    jobs = {job["name"]: job for job in client.get("/jobs").json()["items"]}

    def after(name, field):
        return datetime.fromisoformat(jobs[name][field]) - begin

    assert jobs["1done"]["estimated_finish"] is None
    for name, field, seconds in (
        ("2runs", "estimated_finish", 300),
        ("3half", "estimated_start", 300),
        ("3half", "estimated_finish", 800),
        ("4next", "estimated_start", 800),
        ("4next", "estimated_finish", 2800),
    ):
        assert abs(after(name, field) - timedelta(seconds=seconds)) < MARGIN, (name, field)
    assert [jobs[name]["queue_position"] for name in ("3half", "4next", "5class")] == [1, 2, 3]
    assert (jobs["5class"]["estimated_start"], jobs["5class"]["waiting_for"]) == (None, "no worker offers class l4")
    assert client.get("/jobs/job_4next").json()["queue_position"] == 2


def test_one_look_at_the_queue_serves_everybody_who_asks_within_a_second(api_database, ready_dataset, monkeypatch):
    looks, now, go_on = [], [100.0], threading.Event()
    look = queue.look

    def counted(*asked, **named):
        looks.append(threading.get_ident())
        assert go_on.wait(60)
        return look(*asked, **named)

    monkeypatch.setattr(queue, "look", counted)
    with api_database.write() as session:
        for row in rows_of("a", WorkState.QUEUED):
            session.add(row)
            session.flush()
    estimates = Estimates(api_database, silent_s=60, project_bound=0, clock=lambda: now[0])
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(estimates.now) for _ in range(8)]
        wait_for(lambda: looks, what="the first look")
        go_on.set()
        told = [each.result(60) for each in asked]
    assert len(looks) == 1
    assert all(each is told[0] for each in told)
    assert told[0]["job_a"].queue_position == 1
    now[0] += FRESH_S / 2
    assert estimates.now() is told[0]
    now[0] += FRESH_S / 2
    assert estimates.now() is not told[0]
    assert len(looks) == 2


def test_a_look_that_fails_is_done_again_by_whoever_asks_next(api_database, ready_dataset, monkeypatch):
    estimates = Estimates(api_database, silent_s=60, project_bound=0)
    with monkeypatch.context() as broken:
        broken.setattr(queue, "look", Mock(side_effect=sa.exc.OperationalError("SELECT", {}, Exception("away"))))
        with pytest.raises(sa.exc.OperationalError):
            estimates.now()
    assert estimates.now() == {}


def test_what_the_attempt_before_said_counts_from_the_beginning_of_this_one(client, api_database, ready_dataset):
    """A job that was paused for a day and runs again has the rest of its run before it."""
    with api_database.write() as session:
        at = session.execute(sa.select(NowS())).scalar_one()
        progress = {"step": 5, "total_steps": 10, "eta_s": 400.0, "at": at - 86_400}
        work, job = rows_of("resumed", WorkState.RUNNING, progress=progress, lease_owner="w", attempt=2, fence=2)
        session.add(work)
        session.flush()
        session.add(job)
        session.add(Attempt(work_id=work.id, number=2, fence=2, worker_id="w", first_seq=1, began_s=at - 10))
    told = client.get(f"/jobs/{work.id}").json()["estimated_finish"]
    assert abs(datetime.fromisoformat(told) - (utc_now() + timedelta(seconds=390))) < MARGIN


def test_a_run_that_has_said_nothing_yet_ends_when_jobs_like_it_did(client, api_database, ready_dataset):
    with api_database.write() as session:
        at = session.execute(sa.select(NowS())).scalar_one()
        for work, job in (
            rows_of("done", WorkState.SUCCEEDED, finished_at=utc_now()),
            rows_of("loads", WorkState.RUNNING, lease_owner="w", attempt=1, fence=1),
        ):
            session.add(work)
            session.flush()
            session.add(job)
        for name, began, ended in (("done", 1000, 400), ("loads", 100, None)):
            end = {} if ended is None else {"ended_s": at - ended, "ended_at": utc_now()}
            which = {"work_id": f"job_{name}", "number": 1, "fence": 1, "worker_id": "w", "first_seq": 1}
            session.add(Attempt(**which, began_s=at - began, **end))
    told = client.get("/jobs/job_loads").json()["estimated_finish"]
    assert abs(datetime.fromisoformat(told) - (utc_now() + timedelta(seconds=500))) < MARGIN


@pytest.mark.parametrize(
    ("device", "says"), [("card", "it needs 7.0 GB of memory, and 6.5 GB is free"), ("another card", None)]
)
def test_memory_that_is_short_is_told_where_the_device_is_shared(client, api_database, ready_dataset, device, says):
    gb = 10**9
    with api_database.write() as session:
        at = session.execute(sa.select(NowS())).scalar_one()
        for work, job in (
            rows_of("runs", WorkState.RUNNING, lease_owner="w1", lease_until_s=at + 600),
            rows_of("waits", WorkState.QUEUED, needed_bytes=7 * gb, least_bytes=6 * gb),
        ):
            session.add(work)
            session.flush()
            session.add(job)
        for name, of, free in (("w1", "card", 0), ("w2", device, 65 * gb // 10)):
            session.add(
                Worker(
                    id=name, queue=Queue.GPU, host="h", pid=1, version="1", device=of, headroom_bytes=free,
                    capacity={"gpus": 1, "classes": [], "memory_bytes": 8 * gb}, started_at_s=at, heartbeat_at_s=at,
                )
            )  # fmt: skip
    assert client.get("/jobs/job_waits").json()["waiting_for"] == says
