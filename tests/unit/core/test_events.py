"""The protocol between a child and its supervisor."""

import os
import threading

import pytest
from pydantic import ValidationError

from core.events import Checkpoint, Emitter, Failure, Hello, Log, Metric, Phase, PhaseChanged, parse


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, Emitter(writer)
    os.close(reader)
    os.close(writer)


def lines(reader: int) -> list[bytes]:
    return os.read(reader, 65536).splitlines()


def test_every_event_comes_back_as_it_was_sent(pipe):
    reader, emitter = pipe
    sent = [
        Hello(pid=7),
        PhaseChanged(phase=Phase.TRAINING),
        Metric(data={"step": 1, "loss": 0.5}),
        Log(message="a\nb", data={"x": 1}),
        Checkpoint(step=1, path="checkpoints/step-00000001", sha256="0" * 64, size_bytes=3),
        Failure(code="bad_data", detail="d", remedy="r"),
    ]
    for event in sent:
        emitter.emit(event)
    assert [parse(line) for line in lines(reader)] == sent


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_becomes_null(pipe, value):
    reader, emitter = pipe
    emitter.emit(Metric(data={"step": 3, "loss": value}))
    (line,) = lines(reader)
    assert b"null" in line
    assert parse(line).data == {"step": 3, "loss": None}


def test_lines_of_many_threads_stay_whole(pipe):
    reader, emitter = pipe
    threads = [threading.Thread(target=emitter.log, args=("x" * 500,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [parse(line).message for line in lines(reader)] == ["x" * 500] * 20


@pytest.mark.parametrize("line", [b"", b"{}", b'{"type": "shout"}', b'{"type": "phase", "phase": "sleeping"}', b"[1]"])
def test_anything_else_is_refused(line):
    with pytest.raises(ValidationError):
        parse(line)
