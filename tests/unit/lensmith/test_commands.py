"""The commands: exit statuses, and text of users and models that is never taken for markup."""

import json
import os
import pty
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import typer
from typer.testing import CliRunner

from lensmith import terminal
from lensmith.commands import add_commands
from lensmith.dataset_commands import delete_dataset

TRAP = "img[copy].png [/x] [red]"
DATASET = {"id": "ds_1", "name": TRAP, "state": "failed", "created_at": "2026-01-01T00:00:00Z"} | dict.fromkeys(
    ("digest", "num_examples", "num_issues", "splits")
)


class Handler(BaseHTTPRequestHandler):
    """Answers every request with what the test put into `server.reply`."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.path = self.path
        status, body = self.server.reply
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        self.server.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_DELETE(self):
        self.server.deleted.append(self.path)
        self.send_response(204)
        self.end_headers()


@pytest.fixture
def server(monkeypatch):
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.deleted = []
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setenv("LENSMITH_URL", f"http://127.0.0.1:{made.server_port}")
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def run(monkeypatch):
    """Run a command and return its exit status, what it printed, and what it complained of."""
    app = typer.Typer()
    add_commands(app)

    def invoke(*arguments: str):
        done = CliRunner().invoke(app, list(arguments))
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return invoke


def refusal(status: int):
    return status, {"title": "Invalid request", "detail": f"#/file: {TRAP}", "status": status}


def failed(code: str):
    failure = {"code": code, "detail": TRAP, "remedy": "Mend it.", "retryable": False}
    return 200, DATASET | {"failure": failure}


def test_a_refusal_is_printed_as_it_is(server, run):
    server.reply = refusal(404)
    status, printed, complaint = run("datasets", "show", "ds_1")
    assert (status, printed) == (1, "")
    assert TRAP in complaint


def test_a_table_shows_names_as_they_are(server, run, monkeypatch):
    monkeypatch.setattr(terminal.out, "_force_terminal", True)
    server.reply = (200, {"items": [DATASET | {"failure": None}], "next_cursor": None})
    status, printed, _ = run("datasets", "list")
    assert status == 0
    assert TRAP in printed


@pytest.mark.parametrize(
    ("reply", "expected"),
    [(refusal(422), 3), (refusal(413), 1), (failed("bad_data"), 3), (failed("worker_lost"), 1), (failed("source"), 1)],
)
def test_only_data_that_was_refused_ends_with_three(server, run, tmp_path, reply, expected):
    (tmp_path / "a.jsonl").write_text("{}")
    server.reply = reply
    status, _, complaint = run("datasets", "upload", str(tmp_path / "a.jsonl"))
    assert status == expected
    assert TRAP in complaint


@pytest.mark.parametrize("options", ["[1]", '{"dataset": "e"}', "7", "{"])
def test_options_that_are_no_more_of_the_body_are_a_usage_error(server, run, options):
    status, _, complaint = run("jobs", "create", "--base-model", "tiny", "--dataset", "ds_1", "--options", options)
    assert status == 2
    assert "--options" in complaint


def test_a_folder_is_sent_as_a_zip_under_its_name_with_its_mapping(server, run, tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/train.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path / "digits")
    server.reply = (200, DATASET | {"state": "ready", "failure": None})
    status, _, _ = run("datasets", "upload", ".", "--columns", '{"image": "img"}')
    assert status == 0
    assert b'filename="digits.zip"' in server.body
    assert b'{"image": "img"}' in server.body
    assert b"base_model" not in server.body
    assert b"PK\x03\x04" in server.body


def test_the_base_to_measure_for_goes_along_as_a_form_and_as_json(server, run, tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    server.reply = (200, DATASET | {"state": "ready", "failure": None, "base_model": "tiny"})
    measured = ("--base-model", "tiny", "--longest-edge", "96", "--no-split", "--no-upscale")
    status, printed, _ = run("datasets", "upload", str(tmp_path / "a.jsonl"), *measured)
    assert (status, json.loads(printed)["base_model"]) == (0, "tiny")
    for name, value in (("base_model", "tiny"), ("longest_edge", "96"), ("split", "false"), ("upscale", "false")):
        assert f'name="{name}"\r\n\r\n{value}\r\n'.encode() in server.body
    assert run("datasets", "create", "s3://open/a.zip", *measured)[0] == 0
    assert json.loads(server.body) == {
        "source": "s3://open/a.zip",
        "base_model": "tiny",
        "image": {"longest_edge": 96, "split": False, "upscale": False},
    }


def test_a_folder_that_cannot_be_zipped_ends_with_three_and_is_not_sent(server, run, tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    status, _, complaint = run("datasets", "upload", str(tmp_path))
    assert (status, hasattr(server, "body")) == (3, False)
    assert "Put the file itself in." in complaint


@pytest.mark.parametrize("columns", ["{", "[]"])
def test_columns_that_are_no_object_are_a_usage_error(server, run, tmp_path, columns):
    status, _, complaint = run("datasets", "upload", str(tmp_path), "--columns", columns)
    assert (status, hasattr(server, "body")) == (2, False)
    assert "--columns" in complaint


def test_a_deletion_without_a_terminal_and_without_yes_is_a_usage_error(server, run):
    status, _, complaint = run("datasets", "delete", "ds_1")
    assert status == 2
    assert "--yes" in complaint
    assert server.deleted == []


def test_a_deletion_with_yes_asks_nothing(server, run):
    status, printed, said = run("datasets", "delete", "ds_1", "--yes")
    assert (status, printed, said.strip()) == (0, "", "deleted ds_1")
    assert server.deleted == ["/datasets/ds_1"]


@pytest.mark.parametrize(("answer", "expected"), [("y\n", 0), ("YES\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_a_deletion_on_a_terminal_asks_first(server, monkeypatch, answer, expected):
    """A real terminal: the question goes to standard error, and only a yes deletes."""
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode() or b"\x04")  # Ctrl-D
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        status = 0
        try:
            delete_dataset("ds_1")
        except typer.Exit as left:
            status = left.exit_code
    os.close(ours)
    assert status == expected
    assert server.deleted == ["/datasets/ds_1"] * (expected == 0)


def test_an_upload_that_left_rows_out_says_how_many_and_where_they_are_listed(server, run, tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    server.reply = (200, DATASET | {"state": "ready", "failure": None, "num_skipped": 3})
    status, _, complaint = run("datasets", "upload", "--skip-bad-rows", str(tmp_path / "a.jsonl"))
    assert status == 0
    assert "3 rows were left out, listed by: lensmith datasets report ds_1" in complaint


def test_a_data_set_is_downloaded_under_its_id(server, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server.reply = (200, {})
    assert run("datasets", "download", "ds_1")[:2] == (0, "ds_1.zip\n")
    assert (tmp_path / "ds_1.zip").read_bytes() == b"{}"


def test_examples_are_printed_one_a_line(server, run):
    example = {
        "row": 1,
        "file": None,
        "split": "train",
        "num_answer_chars": 1,
        "messages": [],
        "images": [],
        "issues": [],
    }
    server.reply = (200, {"items": [example, example | {"row": 2}], "next_cursor": None})
    status, printed, _ = run("datasets", "examples", "ds_1", "--split", "train")
    assert (status, [json.loads(line)["row"] for line in printed.splitlines()]) == (0, [1, 2])
    assert "split=train" in server.path
    assert "issue" not in server.path


def test_lengths_are_printed_as_json(server, run):
    server.reply = (200, {"num_sampled": 3, "too_long_rows": [{"file": TRAP, "row": 1}]})
    status, printed, _ = run("datasets", "tokens", "ds_1", "--base-model", "tiny")
    assert (status, json.loads(printed)["too_long_rows"][0]["file"]) == (0, TRAP)
