"""The worker's slot with real children on real work: claims, cancels, kills, gives back, hides what is secret."""

import itertools
import threading

import pytest
import sqlalchemy as sa

from core.db import Database
from core.queue import Queue
from models import control, event
from models.states import Kind, WorkState
from models.work import Work, attempts_of, transition
from ops.migrate import upgrade
from tests.conftest import wait_for
from tests.integration.played_child import put_module
from tests.processes import is_alive
from worker.kinds import nothing
from worker.recorder import Recorder
from worker.runner import Slot


class Play:
    """A kind of work whose child does what the test says; everything around it is the real thing."""

    module = "played_child"

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.published = []
        self.reliefs = 0

    def prepare(self, attempt, staging):
        return {"mode": self.mode}

    def may_read_hub(self, spec):
        return spec["mode"] == "of the Hub"

    def recorder(self, attempt, staging):
        return Recorder()

    def publish(self, attempt, staging, result):
        self.published.append(result)
        return nothing

    def salvage(self, attempt, staging):
        return nothing

    def relieve(self, attempt):
        self.reliefs -= 1
        return self.reliefs >= 0


@pytest.fixture
def database(settings):
    opened = Database(settings.resolved_database_url)
    upgrade(opened)
    yield opened
    opened.close()


@pytest.fixture
def play(settings, database, tmp_path, monkeypatch):
    """Start a slot on one queued piece of work and return it, its kind and the work's id."""
    put_module(monkeypatch, tmp_path, "played_child")
    slots = []

    def start(mode: str, *, reliefs: int = 0, **changes: float) -> tuple[Slot, Play, str]:
        with database.write() as session:
            session.add(Work(id="job_1", kind=Kind.TRAINING, queue=Queue.GPU))
        kind = Play(mode)
        kind.reliefs = reliefs
        changed = settings.model_copy(update=changes)
        slot = Slot(Queue.GPU, worker_id="wrk_1", database=database, settings=changed, kinds={Kind.TRAINING: kind})
        slots.append(slot)
        slot.start()
        return slot, kind, "job_1"

    yield start
    for slot in slots:
        slot.stop()
        slot.join()


def look(database, work_id) -> Work:
    with database.read() as session:
        return session.get_one(Work, work_id)


def items(database, work_id):
    with database.read() as session:
        return event.page(session, work_id, after=0, limit=1000)


def child_pid(database, work_id) -> int:
    return wait_for(
        lambda: next((i.data["pid"] for i in items(database, work_id) if i.message == "pid"), None), what="the child"
    )


def ends(database, work_id, state) -> Work:
    wait_for(lambda: look(database, work_id).state is state, what=f"{state}")
    return look(database, work_id)


def test_work_is_found_without_any_message(database, play):
    _, kind, work_id = play("well")
    ends(database, work_id, WorkState.SUCCEEDED)
    assert kind.published == [{"answer": 42}]
    assert [i.data for i in items(database, work_id) if i.kind == "metric"] == [{"step": 1, "loss": None}], (
        "NaN is null"
    )
    assert any(i.message == "a line of a library" and i.level == "debug" for i in items(database, work_id))


@pytest.mark.parametrize(("mode", "knows"), [("well", []), ("of the Hub", ["HF_TOKEN"])])
def test_a_child_knows_no_credentials_but_the_token_of_the_hub_where_it_reads_it(
    mode, knows, database, play, monkeypatch
):
    for name in (
        "LENSMITH_DATABASE_URL",
        "LENSMITH_REDIS_URL",
        "LENSMITH_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
    ):
        monkeypatch.setenv(name, "secret")
    _, _, work_id = play(mode)
    ends(database, work_id, WorkState.SUCCEEDED)
    seen = next(i for i in items(database, work_id) if i.message == "environment")
    assert list(seen.data or ()) == knows


def test_a_child_that_ignores_every_request_is_killed_and_gone(database, play):
    _, _, work_id = play("stubborn")
    pid = child_pid(database, work_id)
    with database.write() as session:
        assert control.cancel(session, work_id) is WorkState.CANCELLING
    ends(database, work_id, WorkState.CANCELLED)
    assert not is_alive(pid)


def test_a_child_that_listens_stops_by_itself(database, play):
    _, _, work_id = play("polite")
    child_pid(database, work_id)
    with database.write() as session:
        control.cancel(session, work_id)
    ends(database, work_id, WorkState.CANCELLED)


def test_a_worker_that_is_told_to_stop_gives_its_work_back(database, play):
    slot, _, work_id = play("polite")
    pid = child_pid(database, work_id)
    slot.stop()
    slot.join()
    work = look(database, work_id)
    assert (work.state, work.lost_attempts) == (WorkState.QUEUED, 0)
    assert not is_alive(pid)


def test_a_lost_lease_kills_the_child_and_nothing_more_is_written(database, play):
    slot, kind, work_id = play("polite")
    pid = child_pid(database, work_id)
    with database.write() as session:  # somebody else took it over
        work = session.get_one(Work, work_id)
        work.fence += 1
        work.lease_owner = "wrk_2"
    wait_for(lambda: not is_alive(pid), what="the end of the child")
    before = len(items(database, work_id))
    slot.stop()
    slot.join()
    assert len(items(database, work_id)) == before
    assert kind.published == []
    assert look(database, work_id).state is WorkState.RUNNING, "it is the other worker's now"


def test_an_exit_that_says_nothing_is_a_failure_that_says_what_to_do(database, play):
    _, _, work_id = play("silent")
    work = ends(database, work_id, WorkState.FAILED)
    assert work.failure["code"] == "internal"
    assert "status 3" in work.failure["detail"]
    with database.read() as session:
        assert attempts_of(session, work_id)[0].failure == work.failure


def test_of_several_failures_the_first_counts_because_the_others_follow_from_it(database, play):
    _, _, work_id = play("breaking")
    assert ends(database, work_id, WorkState.FAILED).failure["code"] == "bad_data"


def test_an_abort_reads_as_out_of_memory(database, play):
    _, _, work_id = play("aborted")
    assert ends(database, work_id, WorkState.FAILED).failure["code"] == "out_of_memory"


def test_a_kill_that_the_system_counts_as_one_for_want_of_memory_is_not_tried_again(database, play, monkeypatch):
    counts = itertools.count()
    monkeypatch.setattr("worker.attempt.memory_kills", lambda: next(counts))
    _, _, work_id = play("killed")
    work = ends(database, work_id, WorkState.FAILED)
    assert (work.failure["code"], work.attempt) == ("out_of_memory", 1)


def test_work_that_can_take_less_memory_is_tried_again_until_nothing_is_left_to_take_away(database, play, monkeypatch):
    counts = itertools.count()
    monkeypatch.setattr("worker.attempt.memory_kills", lambda: next(counts))
    _, kind, work_id = play("killed", reliefs=4, retry_s=60.0)
    work = ends(database, work_id, WorkState.FAILED)
    assert (work.failure["code"], work.attempt, work.failed_attempts) == ("out_of_memory", 5, 0)
    assert kind.reliefs == -1


def test_a_child_that_somebody_kills_gets_another_attempt_and_is_lost_after_the_third(database, play, monkeypatch):
    monkeypatch.setattr("worker.attempt.memory_kills", lambda: 7)
    _, _, work_id = play("killed")
    work = ends(database, work_id, WorkState.FAILED)
    assert (work.failure["code"], work.attempt, work.lost_attempts) == ("worker_lost", 3, 3)
    assert "3 attempts in a row were lost" in work.failure["detail"]
    with database.read() as session:
        assert [each.outcome for each in attempts_of(session, work_id)] == ["worker_lost"] * 3


def test_a_child_that_goes_on_with_nothing_is_killed_and_has_timed_out_after_the_third(database, play):
    _, _, work_id = play("hung", stall_s=1.5)
    work = ends(database, work_id, WorkState.FAILED)
    assert (work.failure["code"], work.attempt, work.lost_attempts) == ("timed_out", 3, 3)
    assert "went on with nothing for 2 s" in work.failure["detail"]
    assert "LENSMITH_STALL_S" in work.failure["remedy"]


def test_a_child_that_is_slow_and_at_work_is_left_alone(database, play):
    _, kind, work_id = play("slow", stall_s=1.0)
    assert ends(database, work_id, WorkState.SUCCEEDED).attempt == 1
    assert kind.published == [{"answer": 42}]
    assert [item.kind for item in items(database, work_id) if item.message is None] == ["metric"], "it is no item"


def test_a_failure_of_storage_is_tried_again_and_one_of_the_data_is_not(database, play):
    _, kind, work_id = play("no storage")
    work = ends(database, work_id, WorkState.FAILED)
    assert (work.failure["code"], work.attempt, work.failed_attempts) == ("storage", 3, 2)
    assert kind.published == []
    again = [each.message for each in items(database, work_id) if "tried again" in (each.message or "")]
    assert again == [
        f"no room It is tried again in {wait:g} s (attempt {n} failed)." for n, wait in ((1, 0.1), (2, 0.4))
    ]
    with database.read() as session:
        assert [each.failure["code"] for each in attempts_of(session, work_id)] == ["storage"] * 3


def test_a_pause_ends_as_paused_and_the_child_is_gone(database, play):
    _, _, work_id = play("polite")
    pid = child_pid(database, work_id)
    with database.write() as session:
        assert transition(session, work_id, WorkState.PAUSING)
    work = ends(database, work_id, WorkState.PAUSED)
    assert (work.phase, work.lease_owner, work.lost_attempts) == (None, None, 0)
    assert not is_alive(pid)
    with database.read() as session:
        assert [each.outcome for each in attempts_of(session, work_id)] == ["paused"]


def test_a_result_that_comes_while_pausing_is_left_for_the_resumed_job(database, play):
    _, kind, work_id = play("late")
    child_pid(database, work_id)
    with database.write() as session:
        assert transition(session, work_id, WorkState.PAUSING)
    ends(database, work_id, WorkState.PAUSED)
    with database.write() as session:
        assert transition(session, work_id, WorkState.QUEUED)
    kind.mode = "well"
    ends(database, work_id, WorkState.SUCCEEDED)


def test_the_staging_folder_of_an_attempt_is_removed(database, play, settings):
    slot, _, work_id = play("well")
    ends(database, work_id, WorkState.SUCCEEDED)
    slot.stop()
    slot.join()
    assert list((settings.layout.run / "staging").iterdir()) == []


class Flaky:
    """The real database, which the next `left` sessions of the slot find away."""

    def __init__(self, database):
        self._database = database
        self.left = 0

    def __getattr__(self, name):
        return getattr(self._database, name)

    def write(self):
        self._break()
        return self._database.write()

    def read(self):
        self._break()
        return self._database.read()

    def _break(self):
        if self.left > 0 and threading.current_thread().name.startswith("slot"):
            self.left -= 1
            raise sa.exc.OperationalError("UPDATE", {}, Exception("the database is away"))


def test_a_database_that_is_away_for_a_moment_costs_neither_the_child_nor_its_result(database, settings, play):
    slot, kind, work_id = play("polite")
    child_pid(database, work_id)
    flaky = Flaky(database)
    slot._database = flaky
    flaky.left = 3
    slot.stop()
    slot.join()
    assert flaky.left == 0, "the writes of the end were tried again"
    assert look(database, work_id).state is WorkState.QUEUED
    assert kind.published == []


def test_a_database_that_is_away_when_the_child_has_ended_does_not_fail_the_work(database, settings, play):
    """`publish` reads its rows first; one lost connection there threw a whole training away."""
    slot, kind, work_id = play("well")
    flaky = Flaky(database)
    publish = kind.publish

    def reading(attempt, staging, result):
        with flaky.read():
            return publish(attempt, staging, result)

    flaky.left = 2
    kind.publish = reading
    assert ends(database, work_id, WorkState.SUCCEEDED).failure is None
    assert (flaky.left, kind.published) == (0, [{"answer": 42}])
    slot.stop()


def test_a_child_that_speaks_another_version_is_told_apart_from_a_broken_one(database, play):
    _, _, work_id = play("stranger")
    failure = ends(database, work_id, WorkState.FAILED).failure
    assert "speaks version 99" in failure["detail"]
    assert "restart the worker" in failure["remedy"]
