"""The load benchmark in small: it counts what it says, and it notices what is lost."""

import asyncio

import pytest
import sqlalchemy as sa

from benchmarks.api import ARMS, Size, _check_rows, _report, run
from benchmarks.service.load import Followers
from benchmarks.service.servers import Sqlite, prepare
from core.db import Database


def test_five_jobs_and_two_followers_go_through_every_arm(tmp_path, valkey_url, capsys):
    figures = run(Sqlite(tmp_path), valkey_url, Size(jobs=5, clients=2, followers=2), rounds=1)
    assert list(figures) == list(ARMS)
    for (round_,) in figures.values():
        assert len(set(round_.submitted.ids)) == len(round_.submitted.latencies_s) == 5
        assert round_.memory_after > 10
    _report("SQLite", figures)
    said = capsys.readouterr().out
    assert all(arm in said for arm in ARMS)


def test_an_answered_job_that_is_not_there_is_noticed(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/b.db")
    prepare(database, running=1)
    _check_rows(database, [])
    with pytest.raises(AssertionError, match="the job is missing"):
        _check_rows(database, ["job_lost"])
    with database.write() as session:
        session.execute(sa.text("UPDATE work SET state = 'queued' WHERE id = 'job_running_0'"))
    with pytest.raises(AssertionError, match="its place in the queue is missing or doubled"):
        _check_rows(database, [])
    database.close()


@pytest.mark.parametrize("seen", [[1, 2], [1, 3, 2], [1, 2, 2, 3], []])
def test_a_follower_that_missed_an_item_or_saw_one_twice_is_noticed(seen):
    async def scenario():
        crowd = Followers(1, ["job_1"], followers=2)
        crowd._seen = [[1, 2, 3], seen]
        return crowd.num_gapless({"job_1": 3})

    assert asyncio.run(scenario()) == 1
