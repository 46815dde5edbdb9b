"""Images that rows name by URL, fetched from a real server on loopback."""

import gzip
import pickle
import socket
import ssl
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address

import pytest

from core.errors import LensmithError
from ingest.guard import is_global
from ingest.issues import FetchFailed, Rule
from ingest.remote import read_url
from tests.unit.ingest.elsewhere import LONG_S, Elsewhere, images, serving

CHUNK = b"x" * 65536


def refusal(remote, url, *, max_bytes=1_000_000):
    with pytest.raises(FetchFailed) as caught:
        remote.fetch(url, max_bytes=max_bytes)
    return caught.value.finding


def test_an_image_is_fetched_from_the_address_under_the_name(there):
    remote = images(there.guard())
    assert remote.fetch(there.gives("/a.png?size=1", b"bytes"), max_bytes=5) == b"bytes"
    assert (there.asked, there.sni) == (["/a.png?size=1"], ["images.test"])
    assert there.hosts == [f"images.test:{there.port}"]


def test_a_server_without_the_certificate_of_the_name_is_not_read(there):
    there.gives("/a.png", b"bytes")
    remote = images(there.guard({"wrong.test": ["127.0.0.1"]}))
    found = refusal(remote, there.url("/a.png", host="wrong.test"))
    assert found.rule is Rule.URL_UNREACHABLE
    assert "certificate" in found.message
    assert there.asked == []


def test_a_certificate_that_nobody_signed_is_refused_by_the_default(there):
    there.gives("/a.png", b"bytes")
    defaults = ssl.create_default_context()
    assert refusal(images(there.guard(tls=defaults)), there.url("/a.png")).rule is Rule.URL_UNREACHABLE
    assert there.asked == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::]",
        "0x7f000001",
        "169.254.169.254",
        "10.0.0.1",
        "100.64.0.1",
        "[fc00::1]",
        "localhost",
        "inside.test",
        "mixed.test",
    ],
)
def test_nothing_is_sent_to_an_address_that_is_not_global(host, there):
    names = {"localhost": ["127.0.0.1"], "inside.test": ["10.0.0.1"], "mixed.test": ["93.184.216.34", "127.0.0.1"]}
    there.gives("/", b"secret")
    remote = images(there.guard(names, is_allowed=is_global))
    assert refusal(remote, there.url("/", host=host)).rule is Rule.URL_FORBIDDEN
    assert (there.asked, there.sni) == ([], [])


def test_a_name_server_that_changes_its_mind_is_asked_once(there):
    """DNS rebinding: a global address for the check, a private one for the connection."""
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    asked = []

    def resolve(host, port):
        asked.append((host, port))
        return [ip_address(address) for address in next(answers)]

    assert images(there.guard(resolve=resolve)).fetch(there.gives("/a", b"bytes"), max_bytes=9) == b"bytes"
    assert asked == [("images.test", there.port)]


def test_the_next_address_is_tried_when_one_does_not_answer(there):
    names = {"images.test": ["127.0.0.2", "127.0.0.1"]}  # the server listens on the second only
    guard = there.guard(names, is_allowed=lambda address: address.is_loopback)
    assert images(guard).fetch(there.gives("/a", b"bytes"), max_bytes=9) == b"bytes"


@contextmanager
def black_hole(address, port):
    """Take no connection and refuse none: the queue of a socket that nobody accepts from is full."""
    with ExitStack() as sockets:
        hole = sockets.enter_context(socket.socket())
        hole.bind((address, port))
        hole.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex((address, port))
        yield


def test_an_address_that_swallows_everything_leaves_time_for_the_next(there):
    """IPv6 that leads nowhere, as in many a container: the first address took all the time, and ended the fetch."""
    names = {"images.test": ["127.0.0.2", "127.0.0.1"]}
    guard = there.guard(names, is_allowed=lambda address: address.is_loopback)
    with black_hole("127.0.0.2", there.port):
        assert images(guard, image_s=3).fetch(there.gives("/a", b"bytes"), max_bytes=9) == b"bytes"
    assert there.asked == ["/a"]  # at the first try, not at the second


def test_proxies_of_the_environment_are_not_asked(there, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert images(there.guard()).fetch(there.gives("/a", b"bytes"), max_bytes=9) == b"bytes"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_and_its_host_checked_and_named(status, there):
    there.gives("/b.png", b"bytes")
    first = there.leads("/a.png", there.url("/b.png", host="other.test"), status=status)
    assert images(there.guard()).fetch(first, max_bytes=9) == b"bytes"
    assert there.sni == ["images.test", "other.test"]
    assert there.hosts == [f"images.test:{there.port}", f"other.test:{there.port}"]


def test_a_relative_redirect_stays_on_the_host(there):
    there.gives("/x/b.png", b"bytes")
    assert images(there.guard()).fetch(there.leads("/x/a.png", "b.png"), max_bytes=9) == b"bytes"


@pytest.mark.parametrize(
    "to",
    [
        "https://169.254.169.254/latest/meta-data/",
        "https://inside.test/",
        "//inside.test/",
        "http://images.test/a.png",
        "file:///etc/passwd",
        "https://me:secret@images.test/",
        "https://images.test\\@inside.test/",
        "https://[oops/",
    ],
)
def test_a_chain_of_redirects_to_what_is_forbidden_ends_there(to, there):
    there.leads("/2", to)
    first = there.leads("/1", "/2")
    found = refusal(images(there.guard({"inside.test": ["10.0.0.1"]})), first)
    assert found.rule is Rule.URL_FORBIDDEN
    assert there.asked == ["/1", "/2"]


def test_a_loop_of_redirects_ends_after_five(there):
    there.leads("/2", "/1")
    found = refusal(images(there.guard()), there.leads("/1", "/2"))
    assert (found.rule, "more than 5 times" in found.message) == (Rule.URL_BAD_ANSWER, True)
    assert len(there.asked) == 6


def test_plain_http_is_fetched_only_where_the_guard_takes_it():
    with serving(tls=False) as there:
        there.gives("/a.png", b"bytes")
        url = there.url("/a.png", scheme="http")
        assert refusal(images(there.guard()), url).rule is Rule.URL_FORBIDDEN
        assert there.asked == []
        guard = there.guard(schemes=frozenset({"http", "https"}))
        assert images(guard).fetch(url, max_bytes=9) == b"bytes"


def endless(there: Elsewhere, path: str) -> str:
    def answer(handler):
        handler.send_response(200)
        handler.end_headers()
        while not there.released.is_set():
            handler.wfile.write(CHUNK)

    there.answers[path] = answer
    return there.url(path)


def test_a_body_without_end_and_without_a_length_is_cut_at_the_bound(there):
    found = refusal(images(there.guard()), endless(there, "/a"), max_bytes=100_000)
    assert (found.rule, "more than 100,000 bytes" in found.message) == (Rule.IMAGE_TOO_LARGE, True)


def test_the_bound_is_exact(there):
    url = there.gives("/a", b"123456")
    assert images(there.guard()).fetch(url, max_bytes=6) == b"123456"
    assert refusal(images(there.guard()), url, max_bytes=5).rule is Rule.IMAGE_TOO_LARGE


def test_a_length_that_lies_is_not_believed(there):
    cut = there.gives("/cut", b"bytes", Content_Length="900")
    assert refusal(images(there.guard()), cut, max_bytes=9).rule is Rule.URL_UNREACHABLE
    short = there.gives("/short", b"0123456789", Content_Length="5")
    assert images(there.guard()).fetch(short, max_bytes=5) == b"01234"


def drip(there: Elsewhere, path: str, *, head: bytes) -> str:
    """Answer with a byte every 20 ms, so that no single wait is long."""

    def answer(handler):
        handler.wfile.write(head)
        while not there.released.wait(0.02):
            handler.wfile.write(b"x")

    there.answers[path] = answer
    return there.url(path)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Never-Ends: "])
def test_a_slow_drip_ends_at_the_deadline_in_the_head_as_in_the_body(head, there):
    found = refusal(images(there.guard(), image_s=0.3), drip(there, "/a", head=head))
    assert (found.rule, "within 0.3 s" in found.message) == (Rule.URL_UNREACHABLE, True)


def test_a_server_that_says_nothing_ends_at_the_deadline(there):
    there.answers["/a"] = lambda _handler: there.released.wait()
    assert refusal(images(there.guard(), image_s=0.2), there.url("/a")).rule is Rule.URL_UNREACHABLE
    with pytest.raises(FetchFailed, match="said nothing for"):
        next(read_url(there.url("/a"), there.guard(), seconds=LONG_S, idle_s=0.2))


def test_a_gzip_bomb_is_refused_by_its_header_and_never_inflated(there):
    bomb = gzip.compress(bytes(50_000_000))
    found = refusal(images(there.guard()), there.gives("/a", bomb, Content_Encoding="gzip"))
    assert (found.rule, '"gzip"' in found.message) == (Rule.URL_BAD_ANSWER, True)
    assert images(there.guard()).fetch(there.gives("/b", bomb), max_bytes=len(bomb)) == bomb


@pytest.mark.parametrize(
    ("status", "rule"),
    [
        *((status, Rule.URL_BAD_ANSWER) for status in (204, 206, 401, 403, 404, 410, 451, 501)),
        *((status, Rule.URL_UNREACHABLE) for status in (429, 500, 502, 503, 504)),
    ],
)
def test_only_a_whole_answer_counts_and_others_say_whether_they_may_pass(status, rule, there):
    found = refusal(images(there.guard()), there.gives("/a", b"", status=status))
    assert (found.rule, f"answers {status}" in found.message) == (rule, True)


def test_a_port_where_nobody_listens_is_unreachable(there):
    with serving() as gone:
        url = gone.url("/a")
    assert refusal(images(there.guard()), url).rule is Rule.URL_UNREACHABLE


def test_what_is_no_http_is_unreachable(there):
    there.answers["/a"] = lambda handler: handler.wfile.write(b"220 mail.test ESMTP\r\n")
    assert refusal(images(there.guard()), there.url("/a")).rule is Rule.URL_UNREACHABLE


@pytest.mark.parametrize("limits", [{"max_urls": 1}, {"max_total_bytes": 5}, {"total_s": 1e-9}])
def test_a_data_set_has_its_share_and_no_more(limits, there):
    remote = images(there.guard(), **limits)
    there.gives("/a", b"bytes")
    if "total_s" not in limits:
        remote.fetch(there.url("/a"), max_bytes=9)
    else:
        refusal(remote, there.url("/a"))
    asked = len(there.asked)
    assert refusal(remote, there.url("/b")).rule is Rule.TOO_MUCH_DATA
    assert len(there.asked) == asked


def test_a_reader_that_leaves_early_hangs_up(there):
    chunks = read_url(endless(there, "/a"), there.guard(), seconds=LONG_S)
    assert next(chunks)
    chunks.close()
    with pytest.raises(StopIteration):
        next(chunks)


def test_a_failure_crosses_processes_whole(there):
    with pytest.raises(LensmithError) as caught:
        there.guard().parse("ftp://x/")
    assert pickle.loads(pickle.dumps(caught.value)).finding == caught.value.finding
