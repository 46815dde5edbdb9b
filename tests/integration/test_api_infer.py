"""`/infer` against servers that stand where serving should: refusals, nonsense, streams that break, callers that leave."""

import base64
import io
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

from api.app import create_app
from tests.conftest import wait_for
from tests.integration.test_api_jobs import events_of

ASK = {"model": "tiny", "prompt": "x"}
ANSWER = {
    "text": "red",
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 3, "image_tokens": 0, "completion_tokens": 1},
    "timings": {"queue_s": 0.0},
    "base_revision": None,
    "adapter_sha256": None,
}


class Handler(BaseHTTPRequestHandler):
    """Answers what the test put into `server.reply`; with None it holds the request until the caller hangs up."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer()

    def _answer(self):
        if self.server.reply is None:
            self.connection.settimeout(20)
            self.server.hung_up.append(self.connection.recv(1) == b"")
            return
        status, body = self.server.reply
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.fixture
def serving():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.asked, made.hung_up, made.reply = [], [], (200, ANSWER)
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def app(settings, api_database, serving):
    return create_app(settings.model_copy(update={"serving_url": f"http://127.0.0.1:{serving.server_port}"}))


@pytest.fixture
def client(app):
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as opened:
        yield opened


def refusal(pointer: str, *, status: int = 422, **extra) -> tuple[int, dict]:
    document = {
        "type": "/problems/invalid",
        "title": "t",
        "status": status,
        "detail": f"{pointer}: No.",
        "instance": "req_serving",
    }
    return status, document | {"errors": [{"pointer": pointer, "detail": "No."}]} | extra


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()


def test_an_answer_comes_through(client):
    answer = client.post("/infer", json=ASK)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["text"], answer.json()["model"]) == ("red", "tiny")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("#/messages", "#/prompt"),
        ("#/messages/0/content/1/text", "#/prompt"),
        ("#/sampling/max_tokens", "#/max_tokens"),
        ("#/images/0", "#/images/0"),
    ],
)
def test_what_serving_points_at_is_named_as_the_caller_named_it(client, serving, theirs, ours):
    serving.reply = refusal(theirs)
    problem = client.post("/infer", json=ASK).json()
    assert problem["errors"] == [{"pointer": ours, "detail": "No."}]
    assert problem["detail"] == f"{ours}: No."


def test_a_conversation_keeps_its_pointers(client, serving):
    serving.reply = refusal("#/messages/0")
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    assert client.post("/infer", json=body).json()["errors"][0]["pointer"] == "#/messages/0"


PLACE = {"type": "image"}
URL = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(picture()).decode()}"}}


@pytest.mark.parametrize(
    ("index", "pointer"), [(0, "#/images/0"), (1, "#/messages/0/content/1/image_url/url"), (2, "#/images/1")]
)
def test_a_picture_inside_of_messages_is_named_where_the_body_has_it(client, serving, index, pointer):
    serving.reply = refusal(f"#/images/{index}")
    data = URL["image_url"]["url"]
    body = {"model": "tiny", "messages": [{"role": "user", "content": [PLACE, URL, PLACE]}], "images": [data, data]}
    assert client.post("/infer", json=body).json()["errors"][0]["pointer"] == pointer
    assert serving.asked[0]["images"] == [data] * 3


@pytest.mark.parametrize(("parts", "num_images"), [([PLACE], 0), ([PLACE], 2), ([URL], 1)])
def test_places_and_pictures_that_do_not_agree_are_refused_with_both_counts(client, serving, parts, num_images):
    images = [URL["image_url"]["url"]] * num_images
    body = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "images": images}
    answer = client.post("/infer", json=body)
    assert (answer.status_code, serving.asked) == (422, [])
    places = sum(part is PLACE for part in parts)
    assert f'messages have {places} parts of type "image", and images holds {num_images}' in answer.json()["detail"]


def test_a_picture_of_a_form_is_named_by_its_place(client, serving):
    serving.reply = refusal("#/images/1")
    files = [("image", ("a.png", picture())), ("image", ("b.png", picture()))]
    problem = client.post("/infer", data=ASK, files=files).json()
    assert problem["errors"] == [{"pointer": "#/images/1", "detail": "Picture 2 of the field image: No."}]


def test_the_code_of_a_refusal_is_kept_and_the_id_is_ours(client, serving):
    serving.reply = refusal("#/adapter", status=409, code="adapter_damaged")
    answer = client.post("/infer", json=ASK)
    assert (answer.status_code, answer.json()["code"]) == (409, "adapter_damaged")
    assert answer.json()["instance"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'"x"', b"{}", b'{"detail": 1, "errors": [7]}', b"\xff"])
@pytest.mark.parametrize("status", [200, 404, 422, 500])
@pytest.mark.parametrize("stream", [False, True])
def test_nonsense_in_the_place_of_serving_is_503(client, serving, status, body, stream):
    serving.reply = (status, body)
    answer = client.post("/infer", json=ASK | {"stream": stream})
    if stream and status == 200:
        ((event, _, problem),) = events_of(answer)
        assert (event, problem["status"], problem["type"]) == ("error", 503, "/problems/unavailable")
    else:
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")


def test_a_stream_that_serving_breaks_off_ends_with_the_bare_problem(client, serving):
    _, document = refusal("#/sampling/stop", status=504)
    serving.reply = (200, b"".join(json.dumps(line).encode() + b"\n" for line in ({"delta": "r"}, {"error": document})))
    answer = client.post("/infer", json=ASK | {"stream": True})
    delta, error = events_of(answer)
    assert delta == ("delta", "", {"delta": "r"})
    assert (error[0], error[2]["status"], error[2]["errors"][0]["pointer"]) == ("error", 504, "#/stop")
    assert error[2]["instance"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("stop", [["a"] * 5, [""], ["a" * 65]])
def test_stop_strings_have_servings_bounds(client, serving, stop):
    answer = client.post("/infer", json=ASK | {"stop": stop})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith("#/stop")
    assert serving.asked == []


def test_stop_strings_of_a_form_come_through(client, serving):
    files = {"image": ("a.png", picture())}
    assert client.post("/infer", data=ASK | {"stop": ["a", "b"]}, files=files).status_code == 200
    assert serving.asked[0]["sampling"]["stop"] == ["a", "b"]
    assert serving.asked[0]["images"] == [f"data:image/png;base64,{base64.b64encode(picture()).decode()}"]


@pytest.mark.parametrize("reply", [(200, b"<html>"), (200, b"[]"), (502, b"bad gateway")])
def test_readiness_survives_nonsense_in_the_place_of_serving(client, serving, reply):
    serving.reply = reply
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["parts"]["serving"]["ok"] is False


def test_a_caller_that_leaves_ends_servings_work(app, serving):
    serving.reply = None
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started, what="the API")
        port = server.servers[0].sockets[0].getsockname()[1]
        body = json.dumps(ASK).encode()
        head = f"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + body)
            wait_for(lambda: serving.asked, what="the question at serving")
        wait_for(lambda: serving.hung_up, within_s=60, what="the end of the question")
        assert serving.hung_up == [True]
    finally:
        server.should_exit = True
        thread.join()
