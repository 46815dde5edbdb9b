"""Threads never hold more than they are allowed together."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ingest.allowance import Allowance

DEADLINE_S = 10


def test_as_many_hold_at_once_as_fit_and_no_more():
    allowance, lock, held, most = Allowance(10), threading.Lock(), [], []
    three_are_in = threading.Barrier(3)

    def work(amount):
        with allowance.hold(amount):
            with lock:
                held.append(amount)
                most.append(sum(held))
            three_are_in.wait(DEADLINE_S)  # breaks unless three may hold 3 of 10
            with lock:
                held.remove(amount)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, [3] * 30))
    assert max(most) == 9


def test_what_is_more_than_all_gets_in_alone():
    allowance, inside = Allowance(10), threading.Event()
    order = []

    def large():
        with allowance.hold(25):
            inside.set()
            order.append("large")

    with ThreadPoolExecutor(1) as threads:
        with allowance.hold(1):
            done = threads.submit(large)
            assert not inside.wait(0.05)
            order.append("small")
        done.result(DEADLINE_S)
    assert order == ["small", "large"]


def test_it_is_given_back_after_an_error():
    allowance = Allowance(1)
    with pytest.raises(ZeroDivisionError), allowance.hold(1):
        1 / 0  # noqa: B018 - to fail inside
    with allowance.hold(1):
        pass
