"""Many followers of one log: nothing is missing, nothing comes twice, and a thousand cost what one costs."""

import asyncio
import json
import random
import threading
from contextlib import suppress

import pytest

from api.jobs import following, tail
from api.jobs import hub as hubs
from api.jobs.following import Follow, stream
from api.jobs.hub import Hub
from api.jobs.logs import NDJSON, SSE
from core.storage import Storage
from models import event, leases
from models.event import Item
from models.history import History
from models.states import EventKind, WorkState
from tests.integration.jobs import run_job, say
from tests.integration.serving_api import counting

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage.from_url((tmp_path / "objects").as_uri())


@pytest.fixture
def hub(database, storage) -> Hub:
    return Hub(database, History(database, storage), redis_url=NOWHERE)


class Follower:
    """Follows in a task and keeps what came."""

    def __init__(self, hub, job_id="job_1", *, after=0, kinds=None, framing=NDJSON):
        self.seen = []
        self.lines = []
        self.framing = framing
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.task = asyncio.create_task(
            self._run(stream(hub, Follow(job_id=job_id, after=after, kinds=kinds), framing))
        )

    async def _run(self, chunks):
        async for chunk in chunks:
            self.lines.append(chunk)
            if self.framing is NDJSON:
                self.seen += [json.loads(line)["seq"] for line in chunk.splitlines()]
            await self.may_read.wait()

    async def sees(self, *seqs):
        await eventually(lambda: self.seen == list(seqs), lambda: self.seen)


async def eventually(condition, what=lambda: "it"):
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"never came true: {what()}")


async def all_done(followers):
    for follower in followers:
        follower.task.cancel()
        with suppress(asyncio.CancelledError):
            await follower.task


def test_a_tick_costs_the_same_queries_for_a_thousand_followers_as_for_one(hub, database):
    run_job(database)

    async def scenario():
        assert await queries_per_tick(hub, database, num=1) == [1, 2, 1, 2]
        assert await queries_per_tick(hub, database, num=1000) == [1, 2, 1, 2]

    asyncio.run(scenario())


async def queries_per_tick(hub, database, *, num):
    """Return the statements of four ticks: nothing new, two items, nothing new, one item."""
    with database.read() as session:
        last = event.heads(session, ["job_1"])["job_1"][0]
    followers = [Follower(hub, after=last) for _ in range(num)]
    await eventually(lambda: hub._tails and len(hub._tails["job_1"].places) == num)
    await hub._tick()
    await eventually(lambda: hub.readers.statistics().tasks_waiting == hub.readers.borrowed_tokens == 0)
    counts = []
    for messages in ((), ("a", "b"), (), ("c",)):
        if messages:
            say(database, "job_1", *messages)
        with counting(database.engine) as statements:
            await hub._tick()
            if messages:
                last += len(messages)
                await eventually(lambda last=last: all(f.seen[-1:] == [last] for f in followers))
        counts.append(len(statements))
    assert all(follower.seen == [last - 2, last - 1, last] for follower in followers)
    assert len({id(follower.lines[0]) for follower in followers}) == 1, "encoded once, and the same bytes for all"
    await all_done(followers)
    assert not hub._tails
    return counts


def test_two_jobs_that_grew_cost_one_query_for_both_and_one_each(hub, database):
    run_job(database, "job_1")
    run_job(database, "job_2")

    async def scenario():
        followers = [Follower(hub, job_id) for job_id in ("job_1", "job_2", "job_1")]
        await eventually(lambda: all(f.seen == [1, 2] for f in followers))
        await hub._tick()
        for job_id in ("job_1", "job_2"):
            say(database, job_id, "x")
        with counting(database.engine) as statements:
            await hub._tick()
        assert len(statements) == 3
        await eventually(lambda: all(f.seen == [1, 2, 3] for f in followers))
        await all_done(followers)

    asyncio.run(scenario())


def test_followers_that_come_while_the_log_grows_see_every_item_once(hub, database, monkeypatch):
    """A writer, a watcher and followers that join, leave and return wherever they were, all at once."""
    monkeypatch.setattr(hubs, "TICK_S", 0.06)
    monkeypatch.setattr(hubs, "BATCH", 7)
    monkeypatch.setattr(following, "BATCH", 5)
    claim = run_job(database)
    chance = random.Random(7)
    num_items, enough = 300, threading.Event()

    def write():
        left = num_items
        while left:
            count = min(left, chance.randint(1, 9))
            if left < num_items // 2:
                assert enough.wait(60), "nobody follows"
            say(database, "job_1", *("m" * count))
            left -= count
        with database.write() as session:
            leases.finish(session, claim, WorkState.SUCCEEDED)

    async def scenario():
        async with hub.watching(asyncio.Event()):
            writing = asyncio.create_task(asyncio.to_thread(write))
            followers = []
            while not writing.done():
                after = chance.choice([0, 0, 2, 10])
                followers.append((Follower(hub, after=after), after))
                if len(followers) > 5:
                    enough.set()
                await asyncio.sleep(0.01)
            await writing
            for follower, after in followers:
                await asyncio.wait_for(follower.task, 60)
                assert follower.seen == list(range(after + 1, num_items + 4))

    asyncio.run(scenario())


def test_a_filter_is_each_followers_own(hub, database):
    run_job(database)

    async def scenario():
        plain, metrics = Follower(hub), Follower(hub, kinds=frozenset({EventKind.METRIC}))
        await plain.sees(1, 2)
        await hub._tick()
        with database.write() as session:
            kinds = (EventKind.LOG, EventKind.METRIC, EventKind.LOG, EventKind.METRIC)
            event.append(session, "job_1", [Item(kind=kind, message="m") for kind in kinds])
        await hub._tick()
        await plain.sees(1, 2, 3, 4, 5, 6)
        await metrics.sees(4, 6)
        await all_done([plain, metrics])

    asyncio.run(scenario())


def test_the_end_comes_after_the_last_item_and_only_when_the_job_has_ended(hub, database, monkeypatch):
    monkeypatch.setattr(hubs, "BATCH", 2)
    claim = run_job(database)

    async def scenario():
        follower = Follower(hub, framing=SSE)
        await eventually(lambda: follower.lines)
        await hub._tick()
        say(database, "job_1", "a", "b", "c")
        with database.write() as session:
            leases.finish(session, claim, WorkState.SUCCEEDED)
        await hub._tick()
        await asyncio.sleep(0.05)
        assert b"event: end" not in b"".join(follower.lines), "two of four items were read, and the job has ended"
        await hub._tick()
        await asyncio.wait_for(follower.task, 30)
        blocks = b"".join(follower.lines).decode().strip().split("\n\n")
        assert [block.rsplit("id: ", 1)[-1] for block in blocks[:-1]] == list("123456")
        assert blocks[-1] == 'event: end\ndata: {"state": "succeeded"}'

    asyncio.run(scenario())


def test_a_follower_of_a_retried_job_is_not_told_the_end_of_the_attempt_before(hub, database):
    """The watcher had seen `failed`; who joins after the retry has read one item more than the watcher knows of."""
    claim = run_job(database)

    async def scenario():
        with database.write() as session:
            leases.finish(session, claim, WorkState.FAILED, failure={"detail": "d"})
        with hub.join("job_1", after=0):  # somebody whose client is slow keeps the tail alive
            await hub._tick()
            with database.write() as session:
                from models.work import transition

                assert transition(session, "job_1", WorkState.QUEUED)
                event.note(session, "job_1", "Queued again.", state=WorkState.QUEUED)
            late = Follower(hub, framing=SSE)
            await eventually(lambda: b"Queued again." in b"".join(late.lines))
            await asyncio.sleep(0.05)
            assert not late.task.done()
            await all_done([late])

    asyncio.run(scenario())


def test_a_follower_that_falls_behind_is_dropped_and_the_others_go_on(hub, database, monkeypatch):
    monkeypatch.setattr(tail, "TAIL_BYTES", 2000)
    run_job(database)

    async def scenario():
        slow, quick = Follower(hub), Follower(hub)
        await slow.sees(1, 2)
        await quick.sees(1, 2)
        await hub._tick()
        slow.may_read.clear()
        for number in range(20):
            say(database, "job_1", f"{number}" * 200)
            await hub._tick()
            await quick.sees(*range(1, 4 + number))
        assert hub._tails["job_1"]._size_bytes < 4000, "what a slow one misses is not kept for it"
        slow.may_read.set()
        await asyncio.wait_for(slow.task, 30)
        assert slow.seen == [1, 2, 3], "closed, and nothing skipped before"
        back = Follower(hub, after=slow.seen[-1])
        await back.sees(*range(4, 23))
        await all_done([quick, back])

    asyncio.run(scenario())


def test_what_every_follower_has_taken_is_not_kept(hub, database):
    run_job(database)

    async def scenario():
        follower = Follower(hub)
        await follower.sees(1, 2)
        await hub._tick()
        for number in range(5):
            say(database, "job_1", "m")
            await hub._tick()
            await follower.sees(*range(1, 4 + number))
        assert len(hub._tails["job_1"]._blocks) == 1
        await all_done([follower])

    asyncio.run(scenario())


def test_a_stream_closes_without_an_end_when_the_server_stops_and_when_the_job_is_gone(hub, database):
    run_job(database, "job_1")
    run_job(database, "job_2")

    async def scenario():
        stopping = asyncio.Event()
        async with hub.watching(stopping):
            one, two = Follower(hub, "job_1", framing=SSE), Follower(hub, "job_2", framing=SSE)
            await eventually(lambda: one.lines and two.lines)
            with database.write() as session:
                from core.clock import utc_now
                from models import job as jobs

                jobs.record(session, "job_2", deleted_at=utc_now())
            await asyncio.wait_for(two.task, 30)
            assert not one.task.done()
            stopping.set()
            await asyncio.wait_for(one.task, 30)
            late = Follower(hub, "job_1")
            await asyncio.wait_for(late.task, 30)
        assert b"event: end" not in b"".join(one.lines + two.lines)

    asyncio.run(scenario())


def test_a_client_that_names_an_item_that_is_not_there_yet_gets_only_what_comes_behind_it(hub, database):
    claim = run_job(database)

    async def scenario():
        follower = Follower(hub, after=4)
        await hub._tick()
        say(database, "job_1", "three", "four", "five")
        await hub._tick()
        await follower.sees(5)
        with database.write() as session:
            leases.finish(session, claim, WorkState.SUCCEEDED)
        await hub._tick()
        await asyncio.wait_for(follower.task, 30)

    asyncio.run(scenario())


def test_an_api_that_is_stopped_right_after_its_start_ends(client):
    """A cancel that reached redis-py while it connected was swallowed, and the process hung."""
    del client  # nothing was asked; its end is the test


def test_a_watcher_that_is_woken_at_the_moment_it_is_told_to_end_ends(hub, monkeypatch):
    """`asyncio.wait_for` of Python 3.11 swallowed the cancellation, and the API never came to its end."""
    monkeypatch.setattr(hubs, "LEAST_TICK_S", 0.0)

    async def scenario():
        watcher = asyncio.create_task(hub._watch())
        await asyncio.sleep(0.05)  # it waits for its next tick by now
        hub._wake.set()
        await asyncio.sleep(0)
        watcher.cancel()
        done, _ = await asyncio.wait({watcher}, timeout=10)
        assert done

    asyncio.run(asyncio.wait_for(scenario(), 30))
