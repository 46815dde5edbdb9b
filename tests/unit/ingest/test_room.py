"""Threads never hold more than there is room for."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ingest.room import Room


def most_held(amounts, *, size):
    """Hold the amounts on eight threads and return the most that was held at once."""
    room, lock, held, most = Room(size), threading.Lock(), [], []
    reached = threading.Event()

    def work(amount):
        with room.hold(amount):
            with lock:
                held.append(amount)
                most.append(sum(held))
            reached.wait(0.01)  # let the others come in, if they can
            with lock:
                held.remove(amount)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, amounts))
    return max(most)


def test_no_more_is_held_than_there_is_room_for():
    assert most_held([3] * 40, size=10) == 9


def test_what_is_larger_than_the_room_gets_in_alone():
    assert most_held([25, 1] * 10, size=10) == 25


def test_room_is_given_back_after_an_error():
    room = Room(1)
    with pytest.raises(ZeroDivisionError), room.hold(1):
        1 / 0  # noqa: B018 - to fail inside
    with room.hold(1):
        pass
