"""What goes wrong: each fault hurts one thing, and heals it after a random time. What it wants to hurt, it waits for."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa
from sqlmodel import col, select

from core.db import DATABASE_AWAY
from core.queue import Doorbell, Queue, make_celery
from models.states import LEASED, Kind, WorkState
from models.work import Work
from tests.processes import is_alive
from tests.soak.load import Load
from tests.soak.servers import LEASE_S, WORKERS, Part, Servers, until

STOP_S = 40.0

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a fault may touch; `dice` are of this round alone, so that what one fault draws changes no other."""

    servers: Servers
    load: Load
    dice: random.Random
    say: Callable[[str], None]


class NothingRuns(Exception):
    """Every job has ended before there was anything to hurt; their followers may have heard of it late."""


def kill_child(scene: Scene) -> None:
    """Somebody kills a training process and all that it started."""
    pid = _one_of(scene, lambda: [pid for pids in scene.servers.children().values() for pid in pids], "a child to kill")
    scene.say(f"kill -9 child {pid}")
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        scene.say("it had just ended")


def kill_worker(scene: Scene) -> None:
    """A worker's machine goes away; later another one comes."""
    part = scene.servers.parts[scene.dice.choice(["gpu-1", "gpu-2", "gpu-1", "gpu-2", "cpu"])]
    scene.say(f"kill -9 {part.name}")
    part.kill()
    time.sleep(scene.dice.uniform(0, 2))
    part.start()


def stop_worker(scene: Scene) -> None:
    """A deploy: the worker is told to stop, and saves."""
    _stop(scene, scene.servers.parts[scene.dice.choice(WORKERS)])


def stop_api(scene: Scene) -> None:
    """A deploy: the API is told to stop, while clients follow its logs."""
    _stop(scene, scene.servers.parts["api"])


def freeze_worker(scene: Scene) -> None:
    """A worker that stands still until somebody else has its work, and then wakes."""
    part = scene.servers.parts[scene.dice.choice(["gpu-1", "gpu-2"])]
    scene.say(f"SIGSTOP {part.name}")
    part.send(signal.SIGSTOP)
    time.sleep(LEASE_S + scene.dice.uniform(0.5, 4))
    alive = [pid for pid in scene.servers.children()[part.name] if is_alive(pid)]
    assert not alive, f"the child {alive} of the frozen {part.name} outlived its lease"
    scene.say(f"SIGCONT {part.name}")
    part.send(signal.SIGCONT)


def kill_api(scene: Scene) -> None:
    """The API goes away in the middle of everything."""
    scene.say("kill -9 api")
    scene.servers.parts["api"].kill()
    time.sleep(scene.dice.uniform(0, 1))
    scene.servers.parts["api"].start()


def kill_broker(scene: Scene) -> None:
    """The broker goes away, with what it had in memory."""
    scene.say("kill -9 valkey")
    scene.servers.parts["valkey"].kill()
    time.sleep(scene.dice.uniform(0, 3))
    scene.servers.parts["valkey"].start()


def empty_broker(scene: Scene) -> None:
    """Every message is lost."""
    scene.say("FLUSHALL")
    scene.servers.flush_broker()


def double_messages(scene: Scene) -> None:
    """Messages come several times, and for work that is not there."""
    doorbell = Doorbell(make_celery(scene.servers.settings.redis_url, sweep_s=60))
    work_id = _some_work(scene)
    times = scene.dice.randint(2, 6)
    scene.say(f"{times} messages for {work_id} and for a job that is not there")
    for _ in range(times):
        doorbell.ring(Queue.GPU, work_id)
        doorbell.ring(Queue.GPU, "job_nowhere")


def step_clock(scene: Scene) -> None:
    """The database's clock is set: seen from a lease, its end moves."""
    by_s = scene.dice.choice([-3600.0, 3600.0])
    _some_work(scene)
    scene.say(f"the clock jumps by {by_s:+g} s")
    moved = sa.update(Work).where(col(Work.state).in_(LEASED)).values(lease_until_s=col(Work.lease_until_s) - by_s)
    scene.servers.execute(moved)


def pause_and_resume(scene: Scene) -> None:
    """A user pauses a job, waits, and resumes it."""
    job_id = _some_work(scene)
    scene.say(f"pause {job_id}")
    if not scene.load.ask(job_id, "pause"):
        scene.say("it does not run any more")
        return
    until(lambda: scene.load.state(job_id) != WorkState.PAUSING, what=f"the pause of {job_id}")
    time.sleep(scene.dice.uniform(0, 1))
    if scene.load.state(job_id) == WorkState.PAUSED:
        scene.say(f"resume {job_id}")
        assert scene.load.ask(job_id, "resume"), f"{job_id} is paused and cannot be resumed"


def kill_database(scene: Scene) -> None:
    """The database goes away, and recovers from its log."""
    assert scene.servers.postgres is not None
    scene.say("kill -9 postgres")
    scene.servers.postgres.kill()
    time.sleep(scene.dice.uniform(0, 2))
    scene.servers.postgres.start()


Fault = Callable[[Scene], None]

FAULTS: tuple[Fault, ...] = (
    kill_child,
    kill_child,
    kill_worker,
    kill_worker,
    stop_worker,
    stop_api,
    freeze_worker,
    kill_api,
    kill_broker,
    empty_broker,
    double_messages,
    step_clock,
    pause_and_resume,
)


def deck(servers: Servers, number: int, *, seed: int) -> list[Fault]:
    """Return every fault that these servers can have in a random order, a new one for each deck; some come twice."""
    faults = [*FAULTS, kill_database] if servers.postgres else list(FAULTS)
    random.Random(f"{seed}-deck-{number}").shuffle(faults)
    return faults


def _stop(scene: Scene, part: Part) -> None:
    scene.say(f"SIGTERM {part.name}")
    part.send(signal.SIGTERM)
    try:
        part.wait(STOP_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{part.name} does not leave within {STOP_S:g} s of SIGTERM") from None
    part.start()


def _some_work(scene: Scene) -> str:
    """Return a job that runs, as soon as there is one."""
    running = select(Work.id).where(Work.kind == Kind.TRAINING, Work.state == WorkState.RUNNING)

    def look() -> list[str]:
        try:
            with scene.servers.database.read() as session:
                return sorted(session.exec(running))
        except DATABASE_AWAY:
            return []

    return _one_of(scene, look, "a job that runs")


def _one_of(scene: Scene, look: Callable[[], list[Found]], what: str) -> Found:
    """Wait until there is something to hurt, and draw one."""

    def seen() -> tuple[list[Found]] | None:
        found = look()
        return (found,) if found or not scene.load.in_flight() else None

    (found,) = until(seen, what=what)
    if not found:
        raise NothingRuns
    return scene.dice.choice(found)
