"""The SDK against a real server that breaks connections."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import lensmith.waiting
from lensmith import ApiError, Client, Unreachable

DATASET = {"id": "ds_1", "name": "n", "state": "ready", "created_at": "2026-01-01T00:00:00Z"} | dict.fromkeys(
    ("failure", "digest", "num_examples", "num_issues", "splits")
)


class Handler(BaseHTTPRequestHandler):
    """Serves a log of six items, and breaks the stream after every second one."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, dict[str, str]]]

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.seen.append((self.path, self.headers))
        if self.server.trouble:
            return self._trouble(self.server.trouble.pop(0))
        if "/logs" in self.path:
            return self._stream(int(self.headers.get("Last-Event-ID", "0")))
        if self.path.startswith("/datasets/"):
            return self._json(200, DATASET)
        if self.path.startswith("/jobs/"):
            return self._json(
                404, {"title": "Not found", "detail": "There is no job.", "status": 404, "instance": "req_1"}
            )
        return self._json(200, {"items": [], "next_cursor": None})

    def do_POST(self):
        self.server.seen.append((self.path, self.headers))
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.trouble:
            return self._trouble(self.server.trouble.pop(0))
        return self._json(
            422, {"title": "Invalid request", "detail": "no", "errors": [{"pointer": "#/x", "detail": "no"}]}
        )

    def _trouble(self, status):
        """Answer with a status; 0 breaks the connection."""
        self.close_connection = True
        if status == "in flight":
            self._json(409, {"type": "/problems/in-flight", "title": "no", "detail": "no"}, **{"Retry-After": "0"})
        elif status:
            self._json(status, {"title": "no", "detail": "no", "status": status})

    def _json(self, status, body, **headers):
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, after):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for seq in range(after + 1, min(after + 3, 7)):
            item = {
                "seq": seq,
                "at": "2026-01-01T00:00:00Z",
                "kind": "log",
                "level": "info",
                "message": "m",
                "data": None,
            }
            self.wfile.write(f"id: {seq}\nevent: log\ndata: {json.dumps(item)}\n\n".encode())
        if after + 2 >= 6:
            self.wfile.write(b'event: end\ndata: {"state": "succeeded"}\n\n')
        self.close_connection = True


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.seen, made.bodies, made.trouble = [], [], []
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def client(server, monkeypatch):
    monkeypatch.setattr(lensmith.waiting, "BACKOFF_S", 0.0)
    monkeypatch.setattr(lensmith.waiting, "POLL_S", 0.0)
    with Client(f"http://127.0.0.1:{server.server_port}", api_key="k") as opened:
        yield opened


def test_a_log_is_followed_over_broken_connections_without_a_gap_or_a_double(client, server):
    assert [item.seq for item in client.jobs.follow("job_1")] == [1, 2, 3, 4, 5, 6]
    assert [headers["Last-Event-ID"] for _, headers in server.seen] == ["0", "2", "4"]


def test_a_refusal_carries_the_servers_words(client):
    with pytest.raises(ApiError) as refused:
        client.jobs.get("job_1")
    assert (refused.value.status, refused.value.detail, refused.value.request_id) == (404, "There is no job.", "req_1")
    with pytest.raises(ApiError) as refused:
        client.jobs.create(base_model="x", dataset="y")
    assert refused.value.errors == [{"pointer": "#/x", "detail": "no"}]


def test_every_request_carries_the_key_and_every_post_an_idempotency_key(client, server):
    list(client.jobs.list())
    with pytest.raises(ApiError):
        client.jobs.create(base_model="x", dataset="y")
    assert all(headers["Authorization"] == "Bearer k" for _, headers in server.seen)
    assert server.seen[-1][1]["Idempotency-Key"]


def test_a_server_that_is_not_there_is_unreachable():
    with Client("http://127.0.0.1:1") as client, pytest.raises(Unreachable):
        client.jobs.get("job_1")


@pytest.mark.parametrize("status", [0, 502, 503])
def test_a_log_is_followed_over_a_server_that_restarts(client, server, status):
    server.trouble = [status] * 3
    assert [item.seq for item in client.jobs.follow("job_1")] == [1, 2, 3, 4, 5, 6]


def test_a_log_that_is_refused_is_not_asked_for_again(client, server):
    server.trouble = [404]
    with pytest.raises(ApiError):
        list(client.jobs.follow("job_1"))
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [0, 502, 503])
def test_waiting_survives_a_server_that_restarts(client, server, status):
    server.trouble = [status] * 3
    assert client.datasets.wait("ds_1").state == "ready"


def test_waiting_ends_with_a_server_that_stays_away(client, server):
    server.trouble = [0] * 100
    with pytest.raises(Unreachable):
        client.datasets.wait("ds_1")


def test_stop_strings_are_sent_as_repeated_fields(client, server):
    with pytest.raises(ApiError):
        client.infer("x", model="tiny", images=[b"p"], stop=["a", "b c"])
    with pytest.raises(ApiError):
        client.infer("x", model="tiny", stop=["a", "b c"])
    for body in server.bodies:
        assert body.count(b'name="stop"') == 2
        assert b"\r\n\r\nb c\r\n" in body


@pytest.mark.parametrize("trouble", [[0], [0, 0, 503, 502, 0]])
def test_a_post_is_sent_again_with_its_key_over_a_server_that_restarts(client, server, trouble):
    server.trouble = list(trouble)
    with pytest.raises(ApiError) as refused:
        client.jobs.create(base_model="x", dataset="y")
    assert refused.value.status == 422
    assert len({headers["Idempotency-Key"] for _, headers in server.seen}) == 1
    assert [json.loads(body) for body in server.bodies] == [{"base_model": "x", "dataset": "y"}] * (len(trouble) + 1)


def test_a_post_that_is_being_answered_is_sent_again_with_its_key_until_it_is(client, server):
    server.trouble = [0, "in flight", "in flight"]  # the first reply was lost, and its request goes on
    with pytest.raises(ApiError) as refused:
        client.jobs.create(base_model="x", dataset="y")
    assert refused.value.status == 422, "the server's last word"
    assert len(server.seen) == 4
    assert len({headers["Idempotency-Key"] for _, headers in server.seen}) == 1
    assert len(set(server.bodies)) == 1


def test_any_other_conflict_is_not_waited_for(client, server):
    server.trouble = [409]
    with pytest.raises(ApiError):
        client.jobs.pause("job_1")
    assert len(server.seen) == 1


@pytest.mark.parametrize(("trouble", "raised"), [(0, Unreachable), (503, ApiError)])
def test_a_server_that_stays_away_is_given_up(client, server, trouble, raised):
    server.trouble = [trouble] * 100
    with pytest.raises(raised):
        client.jobs.create(base_model="x", dataset="y")
    assert len(server.seen) == lensmith.waiting.MAX_FAILURES + 1


def test_a_question_that_took_too_long_is_not_asked_again(client, server):
    server.trouble = [504]
    with pytest.raises(ApiError):
        client.infer("x", model="tiny")
    assert len(server.seen) == 1


def test_a_server_that_was_known_is_waited_for_though_it_refuses_connections(server, monkeypatch):
    monkeypatch.setattr(lensmith.waiting, "BACKOFF_S", 0.05)
    with Client(f"http://127.0.0.1:{server.server_port}") as client:
        assert list(client.jobs.list()) == []
        address = server.server_address
        server.shutdown()
        server.server_close()
        later = ThreadingHTTPServer(address, Handler, bind_and_activate=False)
        later.allow_reuse_address = True
        later.seen, later.bodies, later.trouble = [], [], []

        def open_again():
            later.server_bind()
            later.server_activate()
            later.serve_forever(0.02)

        timer = threading.Timer(0.3, open_again)
        timer.start()
        assert list(client.jobs.list()) == []
        later.shutdown()
        later.server_close()
        timer.join()


def test_an_upload_whose_reply_was_lost_is_sent_again_whole_with_its_key(client, server, tmp_path):
    server.trouble = [0, 503]
    (tmp_path / "a.jsonl").write_text("the content")
    with pytest.raises(ApiError):
        client.datasets.upload(tmp_path / "a.jsonl")
    assert len({headers["Idempotency-Key"] for _, headers in server.seen}) == 1
    assert [body.count(b"the content") for body in server.bodies] == [1, 1, 1]


def test_a_download_lies_under_its_name_only_when_it_is_whole(client, server, tmp_path):
    assert client.datasets.download("ds_1", tmp_path / "a.zip").read_bytes() == json.dumps(DATASET).encode()
    server.trouble = [409]
    with pytest.raises(ApiError):
        client.datasets.download("ds_1", tmp_path / "b.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_what_to_do_with_bad_rows_goes_with_an_upload(client, server, tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(ApiError):
        client.datasets.upload(tmp_path / "a.jsonl", on_bad_row="skip")
    assert b'name="on_bad_row"\r\n\r\nskip' in server.bodies[0]
