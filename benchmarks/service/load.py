"""The load: clients that submit, followers that read, and workers' writes for them to read."""

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from benchmarks.service.wire import Wire
from core.db import Database
from models import event, leases
from models.event import Item
from models.leases import Claim
from models.states import EventKind, WorkState

WRITE_S = 0.4  # a worker writes what its child said so often
BODY = {"base_model": "tiny", "dataset": "ds_bench", "hyperparameters": {"max_steps": 10, "learning_rate": 1e-4}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What came of the submissions."""

    ids: list[str]
    latencies_s: list[float]
    took_s: float

    @property
    def per_s(self) -> float:
        """Return the rate."""
        return len(self.ids) / self.took_s


async def submit(port: int, path: str, *, jobs: int, clients: int) -> Submitted:
    """Submit so many jobs, each client its share, one after the other, each job with a key of its own."""
    wires = [await Wire.to(port) for _ in range(clients)]
    ids: list[str] = []
    latencies_s: list[float] = []

    async def client(wire: Wire, share: int) -> None:
        for _ in range(share):
            body, key = json.dumps(BODY).encode(), uuid4().hex
            began = time.perf_counter()
            answer = await wire.post(path, body, Idempotency_Key=key)
            latencies_s.append(time.perf_counter() - began)
            ids.append(answer["id"])

    shares = [jobs // clients + (number < jobs % clients) for number in range(clients)]
    began = time.perf_counter()
    await asyncio.gather(*map(client, wires, shares))
    took_s = time.perf_counter() - began
    for wire in wires:
        wire.close()
    return Submitted(ids=ids, latencies_s=latencies_s, took_s=took_s)


class Followers:
    """Clients that follow logs; each job has the same number of them."""

    def __init__(self, port: int, job_ids: Sequence[str], *, followers: int) -> None:
        self._port = port
        self._job_ids = [job_ids[number % len(job_ids)] for number in range(followers)]
        self.num_followers = followers
        self._seen: list[list[int]] = [[] for _ in range(followers)]
        self._in = [asyncio.Event() for _ in range(followers)]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Come in until every one has seen the present end of its log."""
        for number in range(self.num_followers):
            self._tasks.append(asyncio.create_task(self._follow(await Wire.to(self._port), number)))
        for is_in in self._in:
            await is_in.wait()

    async def end(self, *, within_s: float) -> None:
        """Wait for the end of every stream."""
        await asyncio.wait_for(asyncio.gather(*self._tasks), within_s)

    def num_gapless(self, last_seqs: dict[str, int]) -> int:
        """Return how many saw every item of their job, each once and in order."""
        wanted = {job_id: list(range(1, last_seq + 1)) for job_id, last_seq in last_seqs.items()}
        return sum(seen == wanted[job_id] for job_id, seen in zip(self._job_ids, self._seen, strict=True))

    async def _follow(self, wire: Wire, number: int) -> None:
        async for seq in wire.follow(f"/jobs/{self._job_ids[number]}/logs"):
            self._seen[number].append(seq)
            self._in[number].set()
        wire.close()


class Writers(threading.Thread):
    """Writes as the workers of some running jobs do: a few metrics in one transaction, again and again; at last the ends."""

    def __init__(self, database: Database, claims: Sequence[Claim]) -> None:
        super().__init__(daemon=True)
        self._database = database
        self._claims = claims
        self._enough = threading.Event()

    def run(self) -> None:
        """Write until it is enough."""
        step = 0
        while not self._enough.wait(WRITE_S):
            step += 3
            items = [Item(kind=EventKind.METRIC, data={"step": step + n, "loss": 1 / (step + n)}) for n in range(3)]
            for claim in self._claims:
                with self._database.write() as session:
                    event.append(session, claim.work_id, items, fence=claim.fence)
        for claim in self._claims:
            with self._database.write() as session:
                leases.finish(session, claim, WorkState.SUCCEEDED)

    def finish(self) -> dict[str, int]:
        """End every job and return the last number of each log."""
        self._enough.set()
        self.join()
        with self._database.read() as session:
            heads = event.heads(session, [claim.work_id for claim in self._claims])
        return {job_id: last_seq for job_id, (last_seq, _) in heads.items()}
