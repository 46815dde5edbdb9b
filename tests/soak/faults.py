"""What goes wrong: each fault hurts one thing at a random moment, and heals it after a random time."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import col, select

from core.db import DATABASE_AWAY
from core.queue import Doorbell, Queue, make_celery
from models.states import LEASED, Kind, WorkState
from models.work import Work, transition
from tests.soak.servers import LEASE_S, Servers, until

Journal = Callable[[str], None]


def kill_child(servers: Servers, dice: random.Random, journal: Journal) -> None:
    """Somebody kills a training process and all that it started."""
    pids = [pid for found in servers.children().values() for pid in found]
    if pids:
        pid = dice.choice(pids)
        journal(f"kill -9 child {pid}")
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            journal("it had ended")


def kill_worker(servers: Servers, dice: random.Random, journal: Journal) -> None:
    """A worker's machine goes away; later another one comes."""
    part = servers.parts[dice.choice(["gpu-1", "gpu-2", "gpu-1", "gpu-2", "cpu"])]
    journal(f"kill -9 {part.name}")
    part.kill()
    time.sleep(dice.uniform(0, 2))
    part.start()


def stop_worker(servers: Servers, dice: random.Random, journal: Journal) -> None:
    """A deploy: the worker is told to stop, and saves."""
    part = servers.parts[dice.choice(["gpu-1", "gpu-2"])]
    journal(f"SIGTERM {part.name}")
    part.send(signal.SIGTERM)
    try:
        part.wait(40)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{part.name} does not leave within 40 s of SIGTERM") from None
    part.start()


def freeze_worker(servers: Servers, dice: random.Random, journal: Journal) -> None:
    """A worker that stands still until somebody else has its work, and then wakes."""
    part = servers.parts[dice.choice(["gpu-1", "gpu-2"])]
    journal(f"SIGSTOP {part.name}")
    part.send(signal.SIGSTOP)
    time.sleep(LEASE_S + dice.uniform(0.5, 4))
    alive = [pid for pid in servers.children()[part.name] if not _is_ending(pid)]
    assert not alive, f"the child {alive} of the frozen {part.name} outlived its lease"
    journal(f"SIGCONT {part.name}")
    part.send(signal.SIGCONT)


def kill_api(servers: Servers, dice: random.Random, journal: Journal) -> None:
    """The API goes away in the middle of everything."""
    journal("kill -9 api")
    servers.parts["api"].kill()
    time.sleep(dice.uniform(0, 1))
    servers.parts["api"].start()


def kill_broker(servers: Servers, dice: random.Random, journal: Journal) -> None:
    """The broker goes away, with what it had in memory."""
    journal("kill -9 valkey")
    servers.parts["valkey"].kill()
    time.sleep(dice.uniform(0, 3))
    servers.parts["valkey"].start()


def empty_broker(servers: Servers, dice: random.Random, journal: Journal) -> None:
    """Every message is lost."""
    del dice
    journal("FLUSHALL")
    servers.flush_broker()


def double_messages(servers: Servers, dice: random.Random, journal: Journal) -> None:
    """Messages come several times, and for work that is not there."""
    journal("doubled messages")
    doorbell = Doorbell(make_celery(servers.settings.redis_url, sweep_s=60))
    for _ in range(dice.randint(2, 6)):
        doorbell.ring(Queue.GPU, dice.choice(["job_nowhere", _some_work(servers, dice) or "job_nowhere"]))


def step_clock(servers: Servers, dice: random.Random, journal: Journal) -> None:
    """The database's clock is set: seen from a lease, its end moves."""
    by_s = dice.choice([-3600.0, 3600.0])
    journal(f"the clock jumps by {by_s:+g} s")
    moved = sa.update(Work).where(col(Work.state).in_(LEASED)).values(lease_until_s=col(Work.lease_until_s) - by_s)
    servers.execute(moved)


def pause_and_resume(servers: Servers, dice: random.Random, journal: Journal) -> None:
    """A user pauses a job, waits, and resumes it."""
    work_id = _some_work(servers, dice)
    if work_id is None or not _move(servers, work_id, WorkState.PAUSING):
        return
    journal(f"pause {work_id}")
    until(lambda: _state(servers, work_id) not in {None, WorkState.PAUSING}, what=f"the pause of {work_id}")
    time.sleep(dice.uniform(0, 1))
    if _state(servers, work_id) is WorkState.PAUSED:
        journal(f"resume {work_id}")
        until(lambda: _move(servers, work_id, WorkState.QUEUED), what=f"resuming {work_id}")


def kill_database(servers: Servers, dice: random.Random, journal: Journal) -> None:
    """The database goes away, and recovers from its log."""
    assert servers.postgres is not None
    journal("kill -9 postgres")
    servers.postgres.kill()
    time.sleep(dice.uniform(0, 2))
    servers.postgres.start()


FAULTS = (
    kill_child,
    kill_child,
    kill_worker,
    kill_worker,
    stop_worker,
    freeze_worker,
    kill_api,
    kill_broker,
    empty_broker,
    double_messages,
    step_clock,
    pause_and_resume,
)


def faults_of(servers: Servers) -> tuple[Callable[[Servers, random.Random, Journal], None], ...]:
    """Return the faults that these servers can have; what is in it twice comes twice as often."""
    return (*FAULTS, kill_database) if servers.postgres else FAULTS


def _some_work(servers: Servers, dice: random.Random) -> str | None:
    running = select(Work.id).where(Work.kind == Kind.TRAINING, Work.state == WorkState.RUNNING)
    try:
        with servers.database.read() as session:
            ids = sorted(session.exec(running))
    except DATABASE_AWAY:
        return None
    return dice.choice(ids) if ids else None


def _state(servers: Servers, work_id: str) -> WorkState | None:
    try:
        with servers.database.read() as session:
            return session.get_one(Work, work_id).state
    except DATABASE_AWAY:
        return None


def _move(servers: Servers, work_id: str, target: WorkState) -> bool:
    try:
        with servers.database.write() as session:
            return transition(session, work_id, target)
    except DATABASE_AWAY:
        return False


def _is_ending(pid: int) -> bool:
    """Tell whether a process is gone but for its parent, which is frozen and cannot reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
