"""`lensmith datasets preview`: what is learned is seen, and no text of a user is taken for markup."""

import io
import json
from urllib.parse import parse_qs, urlsplit

import pytest
from rich.console import Console

from lensmith.preview import show_preview
from lensmith.resources import Preview
from tests.unit.lensmith.test_commands import TRAP, run, server

__all__ = ["run", "server"]


def token(text, *, learned=False, count=1):
    return {"id": 1, "text": text, "learned": learned, "count": count}


IMAGE = {"width_px": 640, "height_px": 480, "rows": 3, "columns": 4, "num_tiles": 13, "num_tokens": 1201, "tiles": []}
PREVIEW = {
    "dataset": "ds_1",
    "base_model": "tiny",
    "row": 7,
    "split": "train",
    "file": "a.jsonl",
    "text": f"User:<image>{TRAP}\nAssistant: {TRAP}",
    "tokens": [
        token("User:"),
        token("<image>", count=64),
        token(TRAP),
        token("\nAssistant:"),
        token(" "),
        token(TRAP, learned=True),
        token("<end>", learned=True),
        token("\n"),
    ],
    "num_tokens": 1300,
    "num_image_tokens": 1201,
    "num_learned_tokens": 4,
    "context_tokens": 8192,
    "fits": True,
    "refusal": None,
    "images": [IMAGE, IMAGE | {"rows": 0, "columns": 0, "num_tiles": 1, "num_tokens": 67}],
    "is_shortened": False,
}


@pytest.fixture
def shown():
    """Return what is printed of a preview, with colours or without."""

    def shown(*, color_system=None, **changes):
        out = io.StringIO()
        console = Console(
            file=out, color_system=color_system, force_terminal=True, highlight=False, soft_wrap=True, width=80
        )
        show_preview(Preview.model_validate(PREVIEW | changes), console)
        return out.getvalue()

    return shown


def test_what_is_learned_is_in_brackets_where_there_is_no_colour(shown):
    assert shown().startswith(f"User:<image>*64{TRAP}\nAssistant: ⟦{TRAP}<end>⟧\n")


def test_what_is_learned_is_highlighted_where_there_is_colour(shown):
    printed = shown(color_system="standard")
    assert f"\x1b[1;30;42m{TRAP}<end>\x1b[0m" in printed
    assert printed.count("\x1b[1;30;42m") == 1
    assert "⟦" not in printed


def test_a_terminal_obeys_nothing_that_a_data_set_holds(shown):
    escape = "\x1b]0;owned\x07\x1b[2J\r\x9b1m"
    for tokens in ([token(escape), token(escape, learned=True)], []):
        printed = shown(tokens=tokens, text=escape)
        assert not set("\x1b\x07\r\x9b") & set(printed)
        assert "\\x1b]0;owned\\x07" in printed


def test_counts_and_grids_are_lines_of_their_own(shown):
    lines = shown().splitlines()
    assert "row 7 of a.jsonl (train): 1,300 tokens, 1,201 for images, 4 learned; tiny takes 8,192" in lines
    assert "image 1: 640 x 480 px, 3 rows x 4 columns and the whole: 13 tiles, 1,201 tokens" in lines
    assert "image 2: 640 x 480 px, the whole, not cut: 1 tile, 67 tokens" in lines
    assert len(lines) == 6


def test_what_a_job_would_refuse_and_what_is_left_out_is_said(shown):
    printed = shown(refusal=f"Row 7: {TRAP}.", is_shortened=True, tokens=[])
    assert PREVIEW["text"] in printed
    assert f"A job would refuse this row: Row 7: {TRAP}." in printed
    assert "left out" in printed


def test_the_command_asks_for_what_it_was_given(server, run, monkeypatch):
    server.reply = (200, PREVIEW)
    asked = []
    handler = server.RequestHandlerClass
    monkeypatch.setattr(handler, "do_GET", lambda self, get=handler.do_GET: (asked.append(self.path), get(self)))
    options = (
        "--base-model",
        "a/b",
        "--row",
        "7",
        "--longest-edge",
        "64",
        "--no-split",
        "--no-upscale",
        "--file",
        "a.jsonl",
    )
    status, printed, _ = run("datasets", "preview", "ds_1", *options)
    assert status == 0
    assert TRAP in printed
    (path,) = asked
    assert urlsplit(path).path == "/datasets/ds_1/preview"
    assert parse_qs(urlsplit(path).query) == {
        "base_model": ["a/b"],
        "row": ["7"],
        "longest_edge": ["64"],
        "split": ["false"],
        "upscale": ["false"],
        "file": ["a.jsonl"],
    }


def test_json_is_the_whole_answer(server, run):
    server.reply = (200, PREVIEW)
    status, printed, _ = run("datasets", "preview", "ds_1", "--base-model", "tiny", "--row", "7", "--json")
    assert (status, json.loads(printed)) == (0, PREVIEW)
