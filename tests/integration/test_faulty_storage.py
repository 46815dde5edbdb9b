"""A store that fails again and again: names stand for whole bytes, and a real run ends as with a good one."""

import os
import subprocess
import sys

import pytest

from core.errors import FailureCode, WorkFailed
from core.storage import Storage
from tests.conftest import wait_for
from tests.faulty_store import faulty_store
from tests.integration.test_checkpoints import World, newest


@pytest.fixture
def world(settings):
    made = World(settings.model_copy(update={"max_attempts": 5, "retry_s": 0.0}))
    yield made
    made.database.close()


def failure_of(act) -> WorkFailed | None:
    try:
        act()
    except WorkFailed as failed:
        return failed
    return None


@pytest.mark.parametrize("seed", range(6))
def test_a_name_stands_for_whole_bytes_however_the_store_fails(tmp_path, seed):
    storage = Storage.from_url(tmp_path.as_uri())
    sent = {f"default/x/{number}": os.urandom(1000 + number * 70_000) for number in range(30)}
    with faulty_store(seed, share=0.3) as faults:
        for key, data in sent.items():
            failures = []
            while not failures or failures[-1] is not None:
                failures.append(failure_of(lambda key=key, data=data: storage.put_bytes(key, data)))
            assert {(each.code, each.retryable) for each in failures[:-1]} <= {(FailureCode.STORAGE, True)}
            faults.is_on = False
            for named in storage.keys("default"):
                assert storage.read(named) == sent[named]
            faults.is_on = True
        assert faults.counts["reply lost"]
        assert faults.counts["rename failed"]
    assert set(storage.keys("default")) == set(sent)


def test_a_real_run_over_a_store_that_fails_ends_as_one_over_a_good_store(world):
    expected = world.undisturbed()
    job_id = world.submit()
    with faulty_store(5, share=0.08) as faults, world.slot():
        wait_for(lambda: world.look(job_id).finished_at is not None, what="the end")
        faults.is_on = False
    assert world.look(job_id).failure is None
    assert sum(faults.counts.values()) >= 3, faults.counts
    assert world.outcome(job_id) == expected


def test_a_full_store_fails_the_attempt_and_the_next_one_goes_on_when_there_is_room(world):
    expected = world.undisturbed()
    job_id = world.submit()
    with faulty_store(1, share=0.0) as faults, world.slot():
        wait_for(lambda: newest(world, job_id), what="a checkpoint")
        faults.is_full = True
        wait_for(lambda: world.look(job_id).failed_attempts >= 1, what="an attempt that fails for want of room")
        faults.is_full = False
        assert world.ends(job_id) == expected
    failed = [each for each in world.attempts(job_id) if each.outcome == "failed"]
    assert {each.failure["code"] for each in failed} == {"storage"}
    assert any("could not be stored" in (item.message or "") for item in world.items(job_id) if item.level == "warning")


FULL = """
import resource, signal, sys
from core.errors import WorkFailed
from core.storage import Storage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
storage = Storage.from_url(sys.argv[1])
storage.put_bytes("default/small", b"x" * 1000)
try:
    storage.put_bytes("default/large", b"x" * 30_000_000)
except WorkFailed as failed:
    print(failed.code, failed.remedy)
"""


def test_a_disk_that_takes_no_more_leaves_no_half_object(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path.as_uri()], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout.startswith("storage Check the free space")
    assert list(Storage.from_url(tmp_path.as_uri()).keys("")) == ["default/small"]
