"""The order of claims: against a plain model of it, and against what the forecast says, on both databases."""

import random
import threading

import pytest
import sqlalchemy as sa
from sqlmodel import col

from api.jobs.estimates import expectations
from core.clock import utc_now
from core.db import NowS
from core.queue import Queue
from models import claims, queue
from models.claims import Offer
from models.leases import LONGEST_WAIT_S
from models.states import LEASED, Kind, WorkState
from models.work import Attempt, Work
from models.worker import Worker

PROJECTS = ("ant", "bee", "cat")
BIG = Offer(gpus=2, classes=frozenset({"l4"}))


def claim(database, offer=BIG, bound=0, worker_id="wrk_a"):
    with database.write() as session:
        return claims.claim(session, Queue.GPU, worker_id=worker_id, lease_s=600, offer=offer, project_bound=bound)


def add(database, *rows):
    with database.write() as session:
        session.add_all(rows)


def work(number, **values):
    return Work(id=f"job_{number:05}", kind=Kind.TRAINING, queue=Queue.GPU, **values)


def now(database):
    with database.read() as session:
        return session.execute(sa.select(NowS())).scalar_one()


def populate(database, draw):
    """Add random work, some leased, and a history of attempts; return the rows and the seconds of each project."""
    at, used, rows, attempts = now(database), dict.fromkeys(PROJECTS, 0.0), [], []
    for number in range(draw.randint(5, 25)):
        rows.append(
            work(
                number,
                project=draw.choice(PROJECTS),
                priority=draw.choice([0, 0, 0, 5]),
                gpus=draw.choice([0, 0, 1, 2, 4]),
                resource_class=draw.choice([None, None, "l4", "h100"]),
                state=draw.choice([WorkState.QUEUED] * 4 + [WorkState.RUNNING, WorkState.PAUSED]),
            )
        )
        rows[-1].lease_until_s = at + 600
        for attempt in range(draw.choice([0, 1, 2])):
            hours, seconds = draw.choice([1, 5, 30]), draw.randint(1000, 2000) * 10.0**attempt / 10
            began = at - hours * 3600
            attempts.append(
                Attempt(
                    work_id=rows[-1].id, number=attempt - 9, project=rows[-1].project, fence=-1, worker_id="w",
                    first_seq=1, began_s=began, ended_s=began + seconds, ended_at=utc_now(),
                )
            )  # fmt: skip
            if hours < 24:
                used[rows[-1].project] += seconds
    add(database, *rows)
    add(database, *attempts)
    return rows, used


def expected_next(rows, used, offer, bound):
    """Return the id that the rule names, over plain rows."""
    leased = {name: sum(1 for row in rows if row.project == name and row.state in LEASED) for name in PROJECTS}
    fit = [
        row
        for row in rows
        if row.state is WorkState.QUEUED
        and row.gpus <= offer.gpus
        and (row.resource_class is None or row.resource_class in offer.classes)
        and not (bound and leased[row.project] >= bound)
    ]
    key = lambda row: (-row.priority, leased[row.project], used[row.project], row.id)  # noqa: E731
    return min(fit, key=key, default=None)


@pytest.mark.parametrize("seed", range(6))
def test_claims_follow_priority_then_fair_share_then_age(database, seed):
    draw = random.Random(seed)
    rows, used = populate(database, draw)
    bound = draw.choice([0, 2, 4])
    for _ in rows:
        offer = draw.choice([BIG, Offer(gpus=4, classes=frozenset({"h100"})), Offer()])
        wanted, claimed = expected_next(rows, used, offer, bound), claim(database, offer, bound)
        assert (claimed and claimed.work_id) == (wanted and wanted.id)
        if wanted is not None:
            wanted.state = WorkState.RUNNING


@pytest.mark.parametrize("seed", range(6))
def test_the_forecast_names_the_order_in_which_work_is_really_claimed(database, seed):
    draw = random.Random(100 + seed)
    populate(database, draw)
    bound = draw.choice([0, 3])
    with database.write() as session:
        session.execute(sa.update(Work).where(col(Work.state) == WorkState.RUNNING).values(state=WorkState.PAUSED))
        session.add(
            Worker(
                id="wrk_a", queue=Queue.GPU, host="h", pid=1, version="1", started_at_s=0,
                capacity={"gpus": 2, "classes": ["l4"]}, heartbeat_at_s=sa.select(NowS()).scalar_subquery(),
            )
        )  # fmt: skip
    while True:
        with database.read() as session:
            seen = queue.look(session, Queue.GPU, silent_s=600)
        told = expectations(seen, at=utc_now(), project_bound=bound)
        first = [name for name, each in told.items() if each.queue_position == 1 and each.waiting_for is None]
        claimed = claim(database, bound=bound)
        if claimed is None:
            assert all(each.waiting_for for each in told.values() if each.queue_position)
            return
        assert first == [claimed.work_id]
        with database.write() as session:  # it ends at once: one worker, one after the other
            session.execute(sa.update(Work).where(col(Work.id) == claimed.work_id).values(state=WorkState.PAUSED))


def test_workers_at_once_never_exceed_the_bound_of_a_project(database):
    add(database, *(work(number, project=PROJECTS[number % 2]) for number in range(20)))
    gate, claimed = threading.Barrier(8), []

    def take(name):
        gate.wait()
        claimed.append(claim(database, bound=2, worker_id=name))

    threads = [threading.Thread(target=take, args=(f"wrk_{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.project for each in claimed if each) == ["ant", "ant", "bee", "bee"]


def test_work_held_back_waits_unless_the_clock_was_set_back(database):
    at = now(database)
    add(database, work(1, available_at_s=at + 60), work(2, available_at_s=at + LONGEST_WAIT_S + 600))
    assert claim(database).work_id == "job_00002"
    assert claim(database) is None
