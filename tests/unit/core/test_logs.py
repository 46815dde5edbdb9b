"""Logs: one event, one line, whatever somebody put into a field."""

import json

import pytest

from tests.conftest import run_python

FORGERY = "name\nlevel=info event=forged\r\x1b[31m\u2028end"


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_field_cannot_forge_a_line(log_format):
    done = run_python(
        f"from core import logs; logs.configure({log_format!r}, part='t'); logs.get_logger('x').info('e', name={FORGERY!r})"
    )
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1
    assert "\x1b" not in done.stderr
    if log_format == "json":
        assert json.loads(done.stderr)["name"] == FORGERY
