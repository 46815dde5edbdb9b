"""A second try at a picture, and many threads that fetch for one data set."""

import pickle
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address

import pytest

from ingest.issues import FetchFailed, Rule
from ingest.limits import RemoteLimits
from ingest.remote import RemoteImages
from ingest.share import Share


class Patient:
    """Remembers how long it was told to sleep, and sleeps not."""

    def __init__(self):
        self.slept = []

    def __call__(self, seconds):
        self.slept.append(seconds)


@pytest.fixture
def patient():
    return Patient()


def images(there, patient, *, guard=None, **limits):
    return RemoteImages(RemoteLimits(**{"image_s": 60} | limits), guard=guard or there.guard(), sleep=patient)


def then_good(there, path, first):
    """Answer once as `first` does, and from then on with bytes."""
    turns = iter([first])
    there.gives(path, b"bytes")
    good = there.answers[path]

    def answer(handler):
        next(turns, good)(handler)

    there.answers[path] = answer
    return there.url(path)


def status(code, **headers):
    def answer(handler):
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


def hangs_up(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nhalf of it")


def says_nothing(there):
    return lambda _handler: there.released.wait(2)


@pytest.mark.parametrize(
    "first", [hangs_up, lambda _handler: None, *(status(code) for code in (429, 500, 502, 503, 504))]
)
def test_what_may_pass_is_tried_a_second_time(first, there, patient):
    url = then_good(there, "/a.png", first)
    assert images(there, patient, pause_s=0.5).fetch(url, max_bytes=100) == b"bytes"
    assert (there.asked, patient.slept) == (["/a.png"] * 2, [0.5])


def test_a_server_that_said_nothing_is_asked_a_second_time(there, patient):
    url = then_good(there, "/a.png", says_nothing(there))
    assert images(there, patient, image_s=0.4).fetch(url, max_bytes=100) == b"bytes"


def test_a_server_where_nobody_listened_is_dialled_a_second_time(there, patient):
    addresses = iter([["127.0.0.2"], ["127.0.0.1"]])  # it listens on the second only
    guard = there.guard(
        resolve=lambda _host, _port: [ip_address(address) for address in next(addresses)],
        is_allowed=lambda address: address.is_loopback,
    )
    assert images(there, patient, guard=guard).fetch(there.gives("/a.png", b"bytes"), max_bytes=5) == b"bytes"


def test_there_is_no_third_try(there, patient):
    with pytest.raises(FetchFailed, match="answers 503") as caught:
        images(there, patient).fetch(there.gives("/a.png", b"", status=503), max_bytes=100)
    assert (len(there.asked), caught.value.finding.rule) == (2, Rule.URL_UNREACHABLE)
    assert pickle.loads(pickle.dumps(caught.value)).finding == caught.value.finding


@pytest.mark.parametrize("code", [204, 206, 400, 401, 403, 404, 410, 451, 501])
def test_an_answer_that_stays_as_it_is_is_not_asked_for_again(code, there, patient):
    with pytest.raises(FetchFailed, match=f"answers {code}"):
        images(there, patient).fetch(there.gives("/a.png", b"", status=code), max_bytes=100)
    assert (len(there.asked), patient.slept) == (1, [])


def test_neither_is_what_is_too_large_or_was_refused(there, patient):
    large = there.gives("/large", b"x" * 200)
    packed = there.gives("/packed", b"x", Content_Encoding="gzip")
    leads = there.leads("/leads", "https://169.254.169.254/latest/")
    for url in (large, packed, leads):
        with pytest.raises(FetchFailed):
            images(there, patient).fetch(url, max_bytes=100)
    assert (there.asked, patient.slept) == (["/large", "/packed", "/leads"], [])


def test_a_second_try_asks_the_guard_anew(there, patient):
    """A name that leads to us as soon as the first try has failed (DNS rebinding, with a pause)."""
    addresses = iter([["127.0.0.1"], ["10.0.0.1"]])
    guard = there.guard(resolve=lambda _host, _port: [ip_address(address) for address in next(addresses)])
    with pytest.raises(FetchFailed, match="not on the public internet") as caught:
        images(there, patient, guard=guard).fetch(there.gives("/a.png", b"", status=503), max_bytes=100)
    assert (caught.value.finding.rule, there.asked) == (Rule.URL_FORBIDDEN, ["/a.png"])


def at(later):
    return format_datetime(datetime.now(UTC) + later, usegmt=True)


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ("2", 2, 2),
        ("3600", 5, 5),
        ("99999999999999999999", 5, 5),
        (timedelta(hours=1), 5, 5),
        (timedelta(hours=-1), 0.5, 0.5),
        ("0", 0.5, 0.5),
        ("-5", 0.5, 0.5),
        ("soon", 0.5, 0.5),
        ("nan", 0.5, 0.5),
    ],
)
def test_the_pause_is_what_the_server_asks_for_within_bounds(said, least, most, there, patient):
    asked = at(said) if isinstance(said, timedelta) else said  # a test's name must not say what time it is
    url = then_good(there, "/a.png", status(429, Retry_After=asked))
    assert images(there, patient, pause_s=0.5, max_pause_s=5).fetch(url, max_bytes=100) == b"bytes"
    assert least <= patient.slept[0] <= most


def test_a_second_try_is_no_second_url(there, patient):
    url = then_good(there, "/a.png", status(503))
    assert images(there, patient, max_urls=1).fetch(url, max_bytes=100) == b"bytes"


def test_there_is_no_second_try_without_the_time_for_it(there, patient):
    with pytest.raises(FetchFailed, match="answers 503"):
        images(there, patient, total_s=60, pause_s=120, max_pause_s=120).fetch(
            there.gives("/a.png", b"", status=503), max_bytes=100
        )
    assert (len(there.asked), patient.slept) == (1, [])


def outcomes(remote, urls, *, max_bytes=1_000_000):
    """Fetch from eight threads at once; return what came, and the rules of what did not."""

    def one(url):
        try:
            return remote.fetch(url, max_bytes=max_bytes)
        except FetchFailed as failed:
            return failed.finding.rule

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, urls))


def test_threads_share_the_number_of_urls(there, patient):
    urls = [there.gives(f"/{i}", b"bytes") for i in range(40)]
    found = Counter(outcomes(images(there, patient, max_urls=25), urls))
    assert found == {b"bytes": 25, Rule.TOO_MUCH_DATA: 15}
    assert len(there.asked) == 25


def test_threads_share_the_bytes(there, patient):
    """Each looked before it fetched: eight at once could bring eight pictures more than may come."""
    begun = threading.Barrier(8)

    def answer(handler):
        begun.wait(20)  # all eight have been let in
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"x" * 1000)

    urls = [there.url(f"/{i}") for i in range(8)]
    there.answers.update({f"/{i}": answer for i in range(8)})
    found = outcomes(images(there, patient, max_total_bytes=3500), urls)
    assert sum(len(data) for data in found if isinstance(data, bytes)) <= 3500
    assert found.count(Rule.TOO_MUCH_DATA) >= 5


def test_a_second_that_eight_threads_wait_counts_once():
    now = [0.0]
    share = Share(RemoteLimits(total_s=10), clock=lambda: now[0])
    with share.one_url():
        now[0] = 1
        with share.one_url(), share.one_url():
            now[0] = 4
            assert share.left_s() == 6
        now[0] = 5
    now[0] = 100  # nobody waits
    assert share.left_s() == 5
    with share.one_url():
        now[0] = 106
        assert share.left_s() < 0
        with pytest.raises(FetchFailed, match="took more than 10 s"), share.one_url():
            pass
