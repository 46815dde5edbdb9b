"""The watch over the parts: how often one is started again, and what is said."""

import io
import sys

import pytest
from rich.console import Console

from ops import watch
from ops.parts import Part
from ops.processes import Running
from ops.signals import Stop


def test_the_wait_doubles_and_the_sixth_end_within_ten_minutes_is_the_last():
    restarts = watch.Restarts()
    delays = []
    for now in range(5):
        delays.append(restarts.next_delay(float(now)))
        restarts.at.append(float(now))
    assert delays == [1, 2, 4, 8, 16]
    assert restarts.next_delay(5.0) is None


def test_ends_of_long_ago_do_not_count():
    restarts = watch.Restarts(at=[0.0, 1.0, 2.0, 3.0, 4.0])
    assert restarts.next_delay(599.0) is None
    assert restarts.next_delay(605.0) == 1


@pytest.fixture
def dying(tmp_path):
    """A part that says something and ends with status 3, each time."""
    part = Part(name="serving", command=(sys.executable, "-c", "print('no room'); exit(3)"), environment={}, about="")
    entry = Running(part=part, log=tmp_path / "serving.log")
    entry.start()
    yield entry
    entry.process.wait()


def test_a_part_that_ends_again_and_again_ends_the_service_with_its_log(dying, monkeypatch):
    monkeypatch.setattr(watch, "WATCH_S", 0.01)
    monkeypatch.setattr(watch.Restarts, "next_delay", _no_delay)
    console = Console(file=io.StringIO(), soft_wrap=True)
    assert watch.watch([dying], console, Stop()) == 1
    said = console.file.getvalue()
    assert [f"({number} of 5)" in said for number in (1, 5, 6)] == [True, True, False]
    assert "serving ended with status 3, 6 times within 10 minutes" in said
    assert said.count("no room") == 6


def _no_delay(restarts: watch.Restarts, now: float) -> float | None:
    return None if len(restarts.at) >= watch.MAX_RESTARTS else 0.0


def test_a_part_that_ends_before_all_are_up_explains_itself(dying):
    console = Console(file=io.StringIO(), soft_wrap=True)
    assert watch.wait_until_up("http://127.0.0.1:1", [dying], console, Stop()) is False
    assert "serving ended with status 3" in console.file.getvalue()
    assert "no room" in console.file.getvalue()
