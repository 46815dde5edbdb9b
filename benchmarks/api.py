"""The API under load: 1,000 jobs submitted by 50 clients while 500 followers read logs; beside a bare insert.

Three arms on an empty database each, in turn, and all of it once more in every round:

- `bare`: FastAPI and SQLAlchemy that insert one row for each `POST` (`benchmarks.service.bare`);
- `jobs`: `POST /jobs` with an `Idempotency-Key`;
- `jobs, followed`: the same while 500 clients follow the logs of ten running jobs over SSE, which grow by three items every 0.4 s.

The client and the settings of uvicorn are the same. After each round it is checked that every answered id is in the database
exactly once and waits in the queue, with its key and the first item of its log, and that every follower saw every item of its log.

`python -m benchmarks.api --jobs 1000 --clients 50 --followers 500 --rounds 3 --on sqlite postgres`
"""

import argparse
import asyncio
import os
import platform
import sqlite3
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa

from benchmarks.service.load import Followers, Submitted, Writers, submit
from benchmarks.service.servers import Postgres, Server, Sqlite, bare, ours, postgres, prepare, valkey
from core.db import Database

RUNNING = 10
ARMS = ("bare", "jobs", "jobs, followed")
LAST_ITEMS_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much load."""

    jobs: int
    clients: int
    followers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one round of one arm came to; memory in MB."""

    submitted: Submitted
    cpu_s: float
    memory_before: float
    memory_after: float

    @property
    def cpu_ms(self) -> float:
        """Return the server's processor time for each submission; what followers cost is in it."""
        return self.cpu_s / len(self.submitted.ids) * 1000

    def quantile_ms(self, ratio: float) -> float:
        """Return a quantile of the time to an answer."""
        ordered = sorted(self.submitted.latencies_s)
        return ordered[min(len(ordered) - 1, int(ratio * len(ordered)))] * 1000


def main() -> None:
    """Run every arm on every database and print a table."""
    parser = argparse.ArgumentParser(description="Load the API.")
    for name, default in (("jobs", 1000), ("clients", 50), ("followers", 500), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--on", nargs="+", choices=["sqlite", "postgres"], default=["sqlite", "postgres"])
    given = parser.parse_args()
    size = Size(jobs=given.jobs, clients=given.clients, followers=given.followers)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}; {size.jobs:,} jobs by {size.clients} clients, {size.followers} followers of "
        f"{RUNNING} logs, {given.rounds} rounds"
    )
    with valkey() as redis_url:
        for name in given.on:
            with _databases(name) as databases:
                _report(databases.name, run(databases, redis_url, size, rounds=given.rounds))


def run(databases: Sqlite | Postgres, redis_url: str, size: Size, *, rounds: int) -> dict[str, list[Figures]]:
    """Return the figures of every arm, one for each round."""
    figures: dict[str, list[Figures]] = {arm: [] for arm in ARMS}
    for _ in range(rounds):
        with databases.new() as url, bare(url) as server:
            figures["bare"].append(asyncio.run(_submit(server, "/rows", size)))
        for arm, followers in (("jobs", 0), ("jobs, followed", size.followers)):
            with databases.new() as url, _opened(url) as database:
                running = prepare(database, running=RUNNING)
                with ours(url, redis_url) as server:
                    followed = [claim.work_id for claim in running]
                    crowd = Followers(server.port, followed, followers=followers)
                    writers = Writers(database, running if followers else [])
                    figures[arm].append(asyncio.run(_followed(server, size, crowd, writers)))
                _check_rows(database, figures[arm][-1].submitted.ids)
    return figures


async def _submit(server: Server, path: str, size: Size) -> Figures:
    memory_before, cpu_s = server.resident_mb(), server.cpu_s()
    submitted = await submit(server.port, path, jobs=size.jobs, clients=size.clients)
    return Figures(
        submitted=submitted,
        cpu_s=server.cpu_s() - cpu_s,
        memory_before=memory_before,
        memory_after=server.resident_mb(),
    )


async def _followed(server: Server, size: Size, crowd: Followers, writers: Writers) -> Figures:
    before = server.resident_mb()
    await crowd.start()
    writers.start()
    figures = await _submit(server, "/jobs", size)
    last_seqs = await asyncio.to_thread(writers.finish)
    await crowd.end(within_s=LAST_ITEMS_S)
    assert crowd.num_gapless(last_seqs) == crowd.num_followers, "a follower missed an item, or saw one twice"
    return replace(figures, memory_before=before)


def _check_rows(database: Database, ids: list[str]) -> None:
    """Look whether what was answered is there: once, in the queue, with its key and its log."""
    answered = sorted(ids)
    assert len(set(answered)) == len(answered), "two requests with keys of their own got one job"
    queries = {
        "the job": "SELECT id FROM job WHERE id NOT LIKE 'job_running%' ORDER BY id",
        "its place in the queue": "SELECT id FROM work WHERE state = 'queued' ORDER BY id",
        "its key": "SELECT substr(location, 7) AS id FROM idempotency_key ORDER BY id",
        "its first item": "SELECT work_id FROM event WHERE seq = 1 AND work_id NOT LIKE 'job_running%' ORDER BY work_id",
    }
    with database.read() as session:
        for what, query in queries.items():
            assert sorted(session.execute(sa.text(query)).scalars()) == answered, f"{what} is missing or doubled"


def _report(name: str, figures: dict[str, list[Figures]]) -> None:
    """Print the medians of the rounds, and each arm's rate beside the bare one's of the same round."""
    print(f"\n{name}")
    print(
        f"  {'':15} {'per s':>7} {'of bare':>8} {'p50 ms':>7} {'p95 ms':>7} {'CPU ms':>7} {'memory before':>14} {'after':>6}"
    )
    for arm, rounds in figures.items():
        ratios = [
            mine.submitted.per_s / other.submitted.per_s for mine, other in zip(rounds, figures["bare"], strict=True)
        ]
        print(
            f"  {arm:15} {statistics.median(f.submitted.per_s for f in rounds):7.0f} {statistics.median(ratios):8.2f} "
            f"{statistics.median(f.quantile_ms(0.5) for f in rounds):7.0f} "
            f"{statistics.median(f.quantile_ms(0.95) for f in rounds):7.0f} "
            f"{statistics.median(f.cpu_ms for f in rounds):7.2f} "
            f"{statistics.median(f.memory_before for f in rounds):11.0f} MB "
            f"{statistics.median(f.memory_after for f in rounds):6.0f}"
        )
    print("  every answered job is there once; every follower saw every item")


@contextmanager
def _databases(name: str) -> Iterator[Sqlite | Postgres]:
    if name == "postgres":
        with postgres() as server:
            yield server
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Sqlite(Path(folder))


@contextmanager
def _opened(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.close()


if __name__ == "__main__":
    main()
