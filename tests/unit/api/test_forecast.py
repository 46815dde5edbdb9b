"""The simulated queue, on hand-made ones."""

import pytest

from api.jobs.forecast import Place, Running, Waiting, forecast

ONE = [Place(id="w1")]


def times(estimates):
    return {name: (each.position, each.start_s, each.finish_s) for name, each in estimates.items()}


def test_waiting_jobs_start_when_those_before_them_end():
    waiting = [Waiting(id="a", project="p", seconds=10), Waiting(id="b", project="p", seconds=20)]
    running = [Running(project="p", worker_id="w1", remaining_s=5)]
    assert times(forecast(waiting, running, ONE, used_s={})) == {"a": (1, 5, 15), "b": (2, 15, 35)}


def test_projects_take_turns_by_the_time_they_used():
    waiting = [Waiting(id=name, project=name[0], seconds=10) for name in ("a1", "a2", "b1", "b2")]
    assert list(forecast(waiting, [], ONE, used_s={"a": 5})) == ["b1", "a1", "b2", "a2"]


def test_behind_a_job_of_unknown_length_only_the_place_is_known():
    waiting = [Waiting(id="a", project="p"), Waiting(id="b", project="p", seconds=1)]
    assert times(forecast(waiting, [], ONE, used_s={})) == {"a": (1, 0, None), "b": (2, None, None)}


@pytest.mark.parametrize(
    ("work", "running", "bound", "reason"),
    [
        ({"resource_class": "l4"}, 0, 0, "no worker offers class l4"),
        ({"gpus": 2}, 0, 0, "no worker has 2 GPUs; the most is 0"),
        ({"held_s": 20.2}, 0, 0, "held back for 20 s after a failure of storage"),
        ({}, 2, 2, "the project runs 2 of 2 jobs"),
        ({}, 0, 0, None),
    ],
)
def test_a_job_that_no_worker_takes_says_what_it_waits_for(work, running, bound, reason):
    others = [Running(project="p", worker_id=None, remaining_s=9)] * running
    (told,) = forecast(
        [Waiting(id="a", project="p", seconds=1, **work)], others, ONE, used_s={}, project_bound=bound
    ).values()
    assert told.waiting_for == reason


GB = 10**9


def waits_for(places, running=()):
    work = Waiting(id="a", project="p", seconds=1, needed_bytes=7 * GB, least_bytes=6 * GB)
    (told,) = forecast([work], list(running), places, used_s={}).values()
    return told.waiting_for


def test_a_job_says_that_no_worker_has_its_memory_or_that_it_is_not_free():
    small = Place(id="w1", memory_bytes=4 * GB, headroom_bytes=4 * GB)
    short = Place(id="w2", memory_bytes=8 * GB, headroom_bytes=2 * GB)
    roomy = Place(id="w3", memory_bytes=8 * GB, headroom_bytes=7 * GB)
    assert waits_for([small]) == "no worker has 6.0 GB of memory; the most is 4.0 GB"
    assert waits_for([small, short]) == "it needs 6.0 GB of memory, and 2.0 GB is free"
    assert waits_for([short, roomy]) is None
    assert waits_for([short], [Running(project="p", worker_id="w2", remaining_s=9)]) is None, "its turn comes"
    assert waits_for([Place(id="w4")]) is None, "nobody knows what it has"
    one = Place(id="w5", memory_bytes=8 * GB, headroom_bytes=6.5 * GB, memory_of="card")
    runs = [Running(project="p", worker_id="w6", remaining_s=9)]
    assert waits_for([one]) is None, "alone the least is enough"
    assert waits_for([one, Place(id="w6", memory_of="another")], runs) is None
    assert waits_for([one, Place(id="w6", memory_of="card")], runs) == "it needs 7.0 GB of memory, and 6.5 GB is free"


def test_a_project_at_its_bound_starts_when_one_of_its_jobs_ends():
    running = [Running(project="p", worker_id="w2", remaining_s=7)]
    places = [*ONE, Place(id="w2")]
    waiting = [Waiting(id="a", project="p", seconds=1)]
    assert times(forecast(waiting, running, places, used_s={}, project_bound=1)) == {"a": (1, 7, 8)}
